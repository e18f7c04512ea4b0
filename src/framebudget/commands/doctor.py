"""Check that the study has all it needs: one line per check and, for what is missing, the command that helps.

    $ framebudget doctor

Run it at the top of the repository. It changes nothing, and exits with 1 if the study lacks anything. It imports no
other package before it has checked which ones are installed.
"""

import contextlib
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
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from framebudget.console import UserError, redacted

if TYPE_CHECKING:
    from framebudget.params import Params

SERVER, COMMAND, REMOTE = 3, 30, 10  # seconds until a server, a command, and one that asks a remote must have answered
DISK = 2 * 10**9  # bytes: all weights of `make paper` in work/ and in DVC's cache, and unfinished trainings
DVC = sys.executable, "-m", "dvc"


class Finding(NamedTuple):
    ok: bool
    what: str
    advice: str = ""
    needed: bool = True  # by the study as params.yaml describes it


def examine() -> int:
    """Print all findings. Returns the exit status: 1 if anything that the study needs is missing."""
    missing = 0
    for check in (packages, device, disk, repository, mlflow, study):
        try:
            for finding in check():
                print(line(finding), flush=True)
                missing += finding.needed and not finding.ok
        except (ImportError, OSError, ValueError, UserError) as error:
            advice = "make .venv/ready && source .venv/bin/activate"
            print(line(Finding(False, f"{check.__name__}: not checked ({error})", advice)), flush=True)
            missing += 1
    print(f"missing: {missing}" if missing else "nothing is missing")
    return min(missing, 1)


def line(finding: Finding) -> str:
    mark = "✓" if finding.ok else "✗"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = f"\033[{32 if finding.ok else 31 if finding.needed else 33}m{mark}\033[0m"
    aside = "" if finding.ok or finding.needed else " (not needed now)"
    advice = f"\n    → {finding.advice}" if finding.advice and not finding.ok else ""
    return f"{mark} {finding.what}{aside}{advice}"


def packages() -> Iterator[Finding]:
    yield Finding(True, f"Python {platform.python_version()}")
    good = 0
    for name, wanted in requirements("framebudget"):
        version = installed(name)
        if version and wanted.contains(version, prereleases=True):
            good += 1
        else:
            state = f"{version} is installed" if version else "not installed"
            advice = f"{Path(sys.executable).name} -m pip install '{name}{wanted}', or everything: make .venv/ready"
            yield Finding(False, f"{name}: {state}, {wanted or 'any version'} is required", advice)
    yield Finding(True, f"{good} packages as required")


def requirements(package: str, extra: str = "") -> Iterator[tuple]:
    """(name, versions) of what a package, or one of its extras, requires here; dvc[s3] requires those of dvc's s3."""
    from packaging.requirements import Requirement

    for entry in map(Requirement, metadata.requires(package) or []):
        marker = entry.marker
        if ("extra ==" in str(marker)) == bool(extra) and (not marker or marker.evaluate({"extra": extra})):
            yield entry.name, entry.specifier
            for other in entry.extras if installed(entry.name) else ():
                yield from requirements(entry.name, other)


def installed(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)


def device() -> Iterator[Finding]:
    import torch

    for number in range(torch.cuda.device_count()):
        name, (free, total) = torch.cuda.get_device_name(number), torch.cuda.mem_get_info(number)
        yield Finding(True, f"CUDA {number}: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    if not torch.cuda.is_available():
        yield Finding(True, f"no CUDA device; {os.cpu_count()} CPU cores are enough for motion and small crops")


def disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free
    advice = f"make room for {DISK / 1e9:.0f} GB; to delete what no experiment uses: dvc gc -w --all-experiments"
    yield Finding(free >= DISK, f"{free / 1e9:,.1f} GB free on this disk", advice)


def repository() -> Iterator[Finding]:
    commit, fault = ask("git", "rev-parse", "--short", "HEAD")
    what = (
        f"no git repository with a commit here, which DVC needs ({fault})" if fault else f"git commit {commit.strip()}"
    )
    yield Finding(not fault, what, "cd to the top of a clone of it; or: git init && git add -A && git commit -m all")


def mlflow() -> Iterator[Finding]:
    from framebudget.learning.tracking import tracking_uri

    uri = tracking_uri()
    if "://" in uri and not uri.startswith(("sqlite:", "file:")):
        advice = "start it (mlflow server), or use mlflow.db in this folder: unset MLFLOW_TRACKING_URI"
        yield service("MLflow", uri, unreachable(uri, "/health"), advice)
    else:
        path = Path(re.sub(r"^(sqlite:///|file:(//)?)", "", uri))
        writable = os.access(path if path.exists() else path.parent, os.W_OK)
        what = f"MLflow: {path}" + ("" if writable else ", not writable")
        yield Finding(writable, what, "export MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db")


def study() -> Iterator[Finding]:
    from framebudget import params

    try:
        p = params.load()
    except UserError as error:
        advice = "to see what was changed: git diff params.yaml" if Path("params.yaml").exists() else "cd to the clone"
        yield Finding(False, str(error).replace("\n", "\n    "), advice)
        return
    seeds = ", ".join(map(str, p.seeds))
    yield Finding(True, f"params.yaml: {p.dataset}, {', '.join(map(str, p.frames))} {p.unit}, seed {seeds}")
    for check in (clips, weights, dvc):
        yield from check(p)


def clips(p: "Params") -> Iterator[Finding]:
    from framebudget.params import EMBEDDED
    from framebudget.sources.folder import find_clips

    try:
        rows, skipped = find_clips(p.folder, p.data.fetch.group, p.data.fetch.classes)
    except UserError as error:
        if p.archive and p.archive.startswith(("http://", "https://")):
            advice = "download them by other means, and: -S clips=PATH"
            yield service(f"clips of {p.dataset}, from the network", p.archive, unreachable(p.archive), advice)
        else:
            own = p.clips == EMBEDDED and p.dataset == "motion"
            advice = "dvc pull data.dvc" if own else "dvc exp run … -S clips=PATH, of <class>/<video>"
            yield Finding(False, str(error), advice)
    else:
        others = f"; {len(skipped)} other files, which are skipped" if skipped and not p.archive else ""
        classes = len({row["class"] for row in rows})
        yield Finding(True, f"{len(rows)} clips of {classes} classes in {p.folder}{others}")


def weights(p: "Params") -> Iterator[Finding]:
    from framebudget.models import NETWORKS
    from framebudget.sources.weights import cached

    for model in p.models:
        name = NETWORKS[model].name
        if not (given := p.weights(model)):
            yield Finding(True, f"{name} starts from scratch")
            continue
        url, path = cached(given, NETWORKS[model].zoo)
        advice = f"-S datasets.{p.dataset}.{model}.weights=FILE, or a URL, or kinetics400, or null (from scratch)"
        if url and not path.is_file():
            yield service(f"{name} starts from {given}, from the network", url, unreachable(url), advice)
        else:
            found = path.is_file()
            yield Finding(found, f"{name} starts from {given}: {path if found else 'no such file'}", advice)


def dvc(p: "Params") -> Iterator[Finding]:
    """The pulled data, what is out of date, and every remote."""
    from framebudget.params import EMBEDDED

    status, fault = ask(*DVC, "status", "--json")
    if fault:
        busy = " is busy, " in fault or "Unable to acquire lock" in fault
        what = "another DVC command is running here; try again when it has ended" if busy else f"dvc status: {fault}"
        yield Finding(busy, what, "for more: dvc status -v")
        return
    stale = json.loads(status)
    pulled, needed = "data.dvc" not in stale, p.clips == EMBEDDED
    state = "is pulled" if pulled else "is not pulled, or its clips were changed"
    yield Finding(pulled, f"data.dvc {state}", "dvc pull data.dvc", needed)
    stages = ", ".join(name for name in stale if not name.endswith(".dvc"))
    yield Finding(True, f"out of date: {stages}; dvc repro" if stages else "every stage is up to date")
    remotes, _ = ask(*DVC, "remote", "list")
    for name, url in re.findall(r"^(\S+)\s+(.+?)(?:\s+\(default\))?\s*$", remotes, re.MULTILINE):
        advice = f"for more: dvc list-url remote://{name} -v; to change it: dvc remote modify {name} url URL"
        yield service(f"remote {name}", url, silent(name, url), advice, needed and not pulled)


def silent(name: str, url: str) -> str:
    """Why a remote does not answer. (`dvc status --cloud` calls all in sync before the first pull.)"""
    if "://" not in url:
        return "" if Path(url).is_dir() else "no such folder"
    if url.startswith(("http://", "https://")):
        return unreachable(url, bad=500)
    _, fault = ask(*DVC, "list-url", f"remote://{name}", seconds=REMOTE)
    missing = fault.partition(" does not exist: ")[2].rstrip("/")
    empty = missing and url.rstrip("/").endswith(missing)  # a bucket that answers, before the first push
    return "" if empty else fault


def service(what: str, url: str, fault: str, advice: str, needed: bool = True) -> Finding:
    return Finding(not fault, f"{what}: {redacted(url)}, {fault or 'reachable'}", advice, needed)


def ask(*command: str, seconds: float = COMMAND) -> tuple[str, str]:
    """What a command prints and, if it fails, why: DVC's error, or the last line."""
    environment = {**os.environ, "COLUMNS": "9999"}  # or DVC breaks the lines of its tables
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if not result.returncode:
        return result.stdout, ""
    lines = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()
    return "", next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")


def unreachable(url: str, path: str = "", bad: int = 400) -> str:
    """Why a server does not answer, or answers with a status of `bad` or above; empty if it is fine."""
    parts = urlsplit(url)
    try:
        if parts.scheme not in ("http", "https"):  # a database
            socket.create_connection((parts.hostname, parts.port or 5432), SERVER).close()
            return ""
        import requests

        with requests.get(url.rstrip("/") + path, timeout=SERVER, stream=True) as answer:  # not all servers know HEAD
            return f"answers {answer.status_code} {answer.reason}" if answer.status_code >= bad else ""
    except OSError as error:  # of requests, too
        return f"does not answer ({type(error).__name__})"
