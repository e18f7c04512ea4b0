"""Is all there that the study needs? One line a check, and for what is missing the command that mends it.

    $ framebudget doctor

Run it at the top of the repository. It changes nothing, and ends with 1 if the study lacks anything. It imports nothing
of other packages before it has looked whether they are there.
"""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from framebudget.console import redacted

TIMEOUT = 3  # seconds for a server to answer
PATIENCE = 30  # seconds for a command of DVC
REMOTE = 10  # seconds for one that asks a remote
DISK = 2 * 10**9  # bytes: the weights of `make paper` twice, in work/ and in DVC's cache, and unfinished SlowFasts


class Found(NamedTuple):
    good: bool
    what: str
    mend: str = ""
    needed: bool = True  # by the study as params.yaml has it


def examine() -> int:
    """Print what every check finds. Returns the exit status: 1 if anything that is needed is missing."""
    lacking = 0
    for check in (packages, device, disk, repository, parameters, clips, weights, mlflow, dvc):
        try:
            for found in check():
                print(line(found), flush=True)
                lacking += found.needed and not found.good
        except (ImportError, OSError, ValueError) as error:
            print(line(Found(False, f"{check.__name__}: not looked at, for {error}")), flush=True)
            lacking += 1
    print("nothing is missing" if not lacking else f"missing: {lacking}")
    return min(lacking, 1)


def line(found: Found) -> str:
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    mark = ("✓" if found.good else "✗") if utf8 else ("ok     " if found.good else "missing")
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = f"\033[{32 if found.good else 31 if found.needed else 33}m{mark}\033[0m"
    aside = "" if found.good or found.needed else " (not needed now)"
    mend = f"\n    {'→' if utf8 else '->'} {found.mend}" if found.mend and not found.good else ""
    return f"{mark} {found.what}{aside}{mend}"


def packages() -> Iterator[Found]:
    """Python, and the packages that the installed distribution asks for, against those that are there."""
    try:
        asked, python = metadata.requires("framebudget") or [], metadata.metadata("framebudget")["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Found(False, f"Python {platform.python_version()}; framebudget is not installed in it",
                    "make .venv/ready && source .venv/bin/activate")  # fmt: skip
        return
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    good = SpecifierSet(python or "").contains(platform.python_version(), prereleases=True)
    yield Found(
        good, f"Python {platform.python_version()}, {python} is asked for", "make PYTHON=python3.12 .venv/ready"
    )
    requirements = [(Requirement(text), "") for text in asked]
    for requirement, _ in requirements[:]:  # dvc[s3]: what dvc asks for its extra
        for extra in requirement.extras:
            requirements += [(Requirement(text), extra) for text in requires(requirement.name)]
    count = 0
    for requirement, extra in requirements:
        marker = requirement.marker
        if (extra and not (marker and "extra" in str(marker))) or (marker and not marker.evaluate({"extra": extra})):
            continue
        count += 1
        there = installed(requirement.name)
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            says = f"{there} is installed" if there else "not installed"
            yield Found(False, f"{requirement.name}: {says}, {requirement.specifier or 'any version'} is asked for",
                        f"{Path(sys.executable).name} -m pip install '{requirement.name}{requirement.specifier}'"
                        "    or the whole environment: make .venv/ready")  # fmt: skip
            count -= 1
    yield Found(True, f"{count} packages as asked for")


def requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device() -> Iterator[Found]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Found(True, f"{cores} CPU core{'s' * (cores != 1)}, {torch.backends.cpu.get_cpu_capability()}")
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Found(True, f"CUDA {number}: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    if not torch.cuda.device_count():
        yield Found(
            True, f"no CUDA device (torch {torch.__version__}): trains on the CPU, fit for motion and small crops"
        )


def disk() -> Iterator[Found]:
    free = shutil.disk_usage(".").free
    mend = f"{DISK / 1e9:.0f} GB are wanted; what no experiment names goes with: dvc gc -w --all-experiments"
    yield Found(free >= DISK, f"{free / 1e9:,.1f} GB are free on this disk", mend)


def repository() -> Iterator[Found]:
    where = said("git", "rev-parse", "--short", "HEAD")
    if where.returncode:
        yield Found(False, f"no git repository with a commit here, which DVC needs ({last_line(where)})",
                    "cd to the top of a clone of it; or: git init && git add -A && git commit -m all")  # fmt: skip
        return
    changed = said("git", "status", "--porcelain").stdout.splitlines()
    yield Found(True, f"git commit {where.stdout.strip()}, {len(changed)} files changed since")


def parameters() -> Iterator[Found]:
    from framebudget import params

    try:
        p = params.load()
    except params.ParamsError as error:
        mend = "git diff params.yaml shows what was changed" if Path("params.yaml").exists() else "cd to the clone"
        yield Found(False, "\n    ".join(str(error).splitlines()), mend)
        return
    seeds = ", ".join(map(str, p.seeds))
    yield Found(True, f"params.yaml: {p.dataset}, {', '.join(map(str, p.frames))} {p.unit}, seed {seeds}")


def loaded() -> object | None:
    """The parameters, where they can be read."""
    from framebudget import params

    try:
        return params.load()
    except params.ParamsError:
        return None


def clips() -> Iterator[Found]:
    from framebudget.params import EMBEDDED
    from framebudget.sources.folder import SourceError, find_clips

    if not (p := loaded()):
        return
    network = p.archive and p.archive.startswith(("http://", "https://"))
    try:
        rows, skipped = find_clips(p.folder, p.data.fetch.group, p.data.fetch.classes)
    except SourceError as error:
        if network:
            fault = reachable(p.archive)
            yield Found(not fault, f"clips of {p.dataset}, from the network: {p.archive}, {fault or 'which answers'}",
                        "-S clips=PATH, where they have been downloaded to by other means")  # fmt: skip
        else:
            mend = "dvc pull data.dvc" if p.clips == EMBEDDED else "dvc exp run … -S clips=PATH, of <class>/<video>"
            yield Found(False, str(error), mend)
        return
    named = f"; {len(skipped)} other files, which are skipped" if skipped and not p.archive else ""
    count = len({row["class"] for row in rows})
    yield Found(True, f"{len(rows)} clips of {count} classes in {p.folder}{named}")


def weights() -> Iterator[Found]:
    from framebudget.params import MODELS
    from framebudget.sources.weights import cached

    if not (p := loaded()):
        return
    for model, name in MODELS.items():
        given, key = p.weights(model), f"datasets.{p.dataset}.{model}.weights"
        if not given:
            yield Found(True, f"{name} starts from scratch")
            continue
        url, path = cached(given, model)
        if path.is_file():
            yield Found(True, f"{name} starts from {given}: {path}")
        elif url:
            there = reachable(url)
            yield Found(not there, f"{name} starts from {given}, from the network: {url}, {there or 'which answers'}",
                        f"download it by other means, and -S {key}=FILE; or from scratch: -S {key}=null")  # fmt: skip
        else:
            yield Found(False, f"{name} starts from {given}: no such file",
                        f"-S {key}=FILE, or a URL, or kinetics400, or null")  # fmt: skip


def mlflow() -> Iterator[Found]:
    from framebudget.params import tracking_uri

    uri = tracking_uri()
    file = uri.startswith(("sqlite:", "file:")) or "://" not in uri
    if not file:
        fault = reachable(uri, "/health")
        mend = "start it (mlflow server), or: unset MLFLOW_TRACKING_URI, for mlflow.db in this folder"
        yield Found(not fault, f"MLflow: {redacted(uri)}, {fault or 'which answers'}", mend)
        return
    path = Path(re.sub(r"^(sqlite:///|file:(//)?)", "", uri))
    good = os.access(path if path.exists() else path.parent, os.W_OK)
    what = (
        f"{path}: " + ("is there" if path.exists() else "made by the first training")
        if good
        else f"{path}: not writable"
    )
    yield Found(good, f"MLflow: {what}", "export MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db")


def dvc() -> Iterator[Found]:
    """The pulled data, what is out of date, and every remote."""
    from framebudget.params import EMBEDDED

    if not (p := loaded()):
        return
    status = said(sys.executable, "-m", "dvc", "status", "--json")
    if " is busy, " in status.stderr or "Unable to acquire lock" in status.stderr:
        yield Found(True, "another DVC is at work here; what is out of date shows when it has ended")
        return
    if status.returncode:
        yield Found(False, f"dvc status: {last_line(status)}", "dvc status -v says more")
        return
    stale = json.loads(status.stdout)
    pulled, needed = "data.dvc" not in stale, p.clips == EMBEDDED
    yield Found(pulled, "data.dvc is pulled" if pulled else "data.dvc is not pulled, or its clips were changed",
                "dvc pull data.dvc", needed)  # fmt: skip
    stages = [name for name in stale if not name.endswith(".dvc")]
    yield Found(True, f"out of date: {', '.join(stages)}; dvc repro" if stages else "every stage is up to date")
    for entry in said(sys.executable, "-m", "dvc", "remote", "list").stdout.splitlines():
        if match := re.fullmatch(r"(\S+)\s+(.+?)(?:\s+\(default\))?", entry.strip()):
            yield remote(*match.groups(), needed and not pulled)


def remote(name: str, url: str, needed: bool) -> Found:
    if "://" not in url:
        there = Path(url).is_dir()
        what = f"remote {name}: {url}" if there else f"remote {name}: no folder {url}"
        return Found(there, what, f"mount it, or: dvc remote modify {name} url FOLDER", needed)
    fault = reachable(url, bad=500) if url.startswith(("http://", "https://")) else unlisted(name, url)
    mend = f"dvc list-url remote://{name} -v says more; or: dvc remote modify {name} url URL"
    return Found(not fault, f"remote {name}: {redacted(url)}, {fault or 'which answers'}", mend, needed)


def unlisted(name: str, url: str) -> str:
    """Why DVC cannot list a remote; empty if it can. `dvc status --cloud` calls all in sync before the first pull."""
    listing = said(sys.executable, "-m", "dvc", "list-url", f"remote://{name}", patience=REMOTE)
    fault = last_line(listing)
    missing = fault.partition(" does not exist: ")[2]
    empty = missing and url.rstrip("/").endswith(missing.rstrip("/"))  # a bucket that answers, and no push yet
    return fault if listing.returncode and not empty else ""


def said(*command: str, patience: int = PATIENCE) -> subprocess.CompletedProcess:
    """What a command says, if it ends within so many seconds."""
    wide = {**os.environ, "COLUMNS": "9999"}  # or DVC breaks the lines of its tables
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=patience, env=wide)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {patience} s")
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} is not installed")


def last_line(result: subprocess.CompletedProcess) -> str:
    """The last one, or what DVC calls the error; it goes on about its support."""
    lines = (result.stderr.strip() or result.stdout.strip() or "it said nothing").splitlines()
    return next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")


def reachable(url: str, path: str = "", bad: int = 400) -> str:
    """Why a server does not answer within TIMEOUT, or with a status from `bad` on; empty if it does."""
    parts = urlsplit(url)
    try:
        if parts.scheme not in ("http", "https"):  # a database
            socket.create_connection((parts.hostname, parts.port or 5432), TIMEOUT).close()
            return ""
        import requests

        with requests.get(url.rstrip("/") + path, timeout=TIMEOUT, stream=True) as answer:  # not all servers know HEAD
            return f"which says {answer.status_code} {answer.reason}" if answer.status_code >= bad else ""
    except OSError as error:  # of requests, too
        return f"which does not answer ({type(error).__name__})"
