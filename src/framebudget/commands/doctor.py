"""Check that everything the study needs is in place: one line per check and, for a failure, the command to fix it.

$ framebudget doctor        (run at the top of the repository; exits with 1 if anything is missing)
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from framebudget.console import UserError, redacted

SERVER, COMMAND, REMOTE = 3, 30, 10  # timeouts in seconds: a server, a command, a command that contacts a remote
DVC = sys.executable, "-m", "dvc"


class Finding(NamedTuple):
    ok: bool
    what: str
    advice: str = ""
    needed: bool = True  # by the study in params.yaml


def examine(*checks: Callable) -> int:
    """Run these checks, or all of them, and print the findings. Returns the exit status: 1 if anything is missing."""
    missing = 0
    for check in checks or (packages, machine, memory, trainings, mlflow, study):
        for ok, what, advice, needed in findings(check):
            print("✓" if ok else "✗", what if ok or needed else f"{what} (not needed now)", flush=True)
            if advice and not ok:
                print(f"    → {advice}")
            missing += needed and not ok
    print(f"missing: {missing}" if missing else "nothing is missing")
    return min(missing, 1)


def findings(check: Callable) -> Iterator[Finding]:
    """The findings that a check yields, and one for the error that it raises."""
    try:
        yield from check()
    except UserError as error:  # its message says what to do
        yield Finding(False, str(error).replace("\n", "\n    "))
    except ImportError as error:  # a package is missing or broken
        yield Finding(False, f"{check.__name__}: {error}", "make .venv/ready && source .venv/bin/activate")
    except (OSError, ValueError) as error:
        yield Finding(False, f"{check.__name__}: {error}")


def packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement  # not at the top: like any package, it may be missing

    required = [line for line in metadata.requires("framebudget") if ";" not in line]  # without development extras
    yield Finding(True, f"Python {platform.python_version()}; {len(required)} packages are required")
    for package in map(Requirement, required):
        version = next((found.version for found in metadata.distributions(name=package.name)), None)
        if not version or not package.specifier.contains(version, prereleases=True):
            what = f"{package.name}: {version or 'nothing'} is installed, {package.specifier} is required"
            yield Finding(False, what, f"python -m pip install '{package}', or everything: make .venv/ready")


def machine() -> Iterator[Finding]:
    commit, fault = ask("git", "rev-parse", "HEAD", "HEAD:./dvc.yaml")  # a repository around this folder does not count
    what = f"no git repository with a commit here ({fault})" if fault else f"git commit {commit[:7]}"
    advice = "cd to the top of a clone; or, for experiments: git init && git add -A && git commit -m all && make scm"
    if "dubious ownership" in fault:  # of another user, as in a container
        advice = 'git config --global --add safe.directory "$PWD"'
    yield Finding(not fault, what, advice, needed=False)
    local = Path(".dvc/config.local")
    if not fault and local.is_file() and "no_scm" in local.read_text():
        yield Finding(False, f"{local}: no_scm turns DVC's experiments off", "make scm", needed=False)
    free = shutil.disk_usage(".").free / 1e9  # 2 GB: weights in work/ and in DVC's cache, and unfinished trainings
    advice = "free 2 GB; to delete files that no experiment uses: dvc gc -w --all-experiments"
    yield Finding(free >= 2, f"{free:,.1f} GB free on this disk", advice)

    import torch

    from framebudget.processor import cores

    gpus = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    yield Finding(True, gpus or f"no GPU, {cores()} CPU cores: use motion, or small crops")


def memory() -> Iterator[Finding]:
    import pandas as pd
    import torch

    from framebudget import params, processor
    from framebudget.commands.memory import needed
    from framebudget.learning.side_by_side import places
    from framebudget.study import Study

    p = params.load()
    if p.trainer.shared or p.engine == "ray":
        return
    at_once = len(places(p))
    there = processor.memory() / 1e9
    if gpus := torch.cuda.device_count():
        at_once, there = -(-at_once // gpus), torch.cuda.get_device_properties(0).total_memory / 1e9
    folds = p.data.split.folds or (3 if p.data.split.official == "all" else 1)
    study = Study(p, pd.DataFrame({"fold": range(folds)}))  # its clips may not be there yet, and are not needed here
    for network in p.models:
        trainings = study.trainings(network)
        each = {T: needed(one) for T, one in {training.T: training for training in trainings}.items()}
        most = sorted((each[training.T] for training in trainings), reverse=True)[:at_once]
        what = f"memory: {len(most)} trainings of {network} at once need about {sum(most):.1f} of {there:.0f} GB"
        if gpus:  # it says 212 GB instead of some 140 for 400 clips of 16 × 224 px on an H100
            what = f"{what} by an estimate for CPUs; a GPU may need a third less"
        fits = sum(most) * (2 / 3 if gpus else 1) < 0.9 * there
        which = "per_gpu" if gpus else "side_by_side"
        yield Finding(fits, what, f"lower {which} or train.batch_size (params.yaml)")


def trainings() -> Iterator[Finding]:
    from framebudget.learning import store

    kept = store.contents()
    if len(kept):
        done, size, days = kept["finished"].sum(), kept["GB"].sum(), kept["days"].max()
        ages = f"the oldest unused for {days:.0f} days" if days >= 1 else "all used today"
        what = f"{store.STORE}: {done} finished and {len(kept) - done} unfinished trainings, {size:.1f} GB, {ages}"
        yield Finding(True, f"{what}; to empty it: rm -r {store.STORE}")


def mlflow() -> Iterator[Finding]:
    from framebudget.learning.mlflow_store import connect, database, tracking_uri

    if (file := database()) and not file.exists():
        yield Finding(True, f"MLflow: the first training makes {file}")
    else:
        connect()  # raises what a training would
        yield Finding(True, f"MLflow: {redacted(tracking_uri())} answers")


def study() -> Iterator[Finding]:
    import pandas as pd

    from framebudget import params
    from framebudget.fetch import check_exposed, counts, find
    from framebudget.models import NETWORKS
    from framebudget.sources.weights import cached

    p = params.load()
    yield Finding(True, f"params.yaml: {p.dataset}, {', '.join(p.models)}, {p.unit} {p.frames}, seeds {p.seeds}")
    yield from dvc(embedded=p.clips == params.EMBEDDED)
    for model in p.models:
        if given := p.weights(model):
            url, path = cached(given, NETWORKS[model].zoo)
            advice = f"-S datasets.{p.dataset}.{model}.weights=FILE, or a URL, or kinetics400, or null (from scratch)"
            yield reached(f"weights of {model}", url if url and not path.is_file() else str(path), advice)
    try:
        clips = pd.DataFrame(find(p)[0])
        what = f"{len(clips)} clips of {clips['class'].nunique()} classes in {p.folder}:"
        yield Finding(True, "\n  ".join([what, *counts(clips)]))
        check_exposed(Path(p.clips))
    except UserError:
        if not p.archive:
            raise
        yield reached(f"clips of {p.dataset}", p.archive, "download them yourself, then: -S clips=PATH")


def dvc(embedded: bool = True) -> Iterator[Finding]:
    """Check the embedded clips, the stages and every remote. embedded: whether the study uses the embedded clips."""
    status, fault = ask(*DVC, "status", "--json")
    if fault:
        busy = " is busy, " in fault or "Unable to acquire lock" in fault  # another DVC command is running
        advice = "make scm" if "is not a git repository" in fault else "for more: dvc status -v"
        if "getpwuid" in fault:  # a user without a name, as in a container
            advice = "export USER=me"
        yield Finding(False, f"dvc status: {fault}", advice, needed=not busy)
        return
    stale = json.loads(status)
    pulled = "data.dvc" not in stale
    what = f"data.dvc is {'pulled' if pulled else 'not pulled, or its clips were changed'}"
    yield Finding(pulled, what, "dvc pull data.dvc", needed=embedded)
    stages = ", ".join(name for name in stale if not name.endswith(".dvc"))
    yield Finding(True, f"out of date: {stages}; dvc repro" if stages else "every stage is up to date")
    remotes, _ = ask(*DVC, "remote", "list")
    for name, url in re.findall(r"^(\S+)\s+(.+?)(?:\s+\(default\))?\s*$", remotes, re.MULTILINE):
        advice = f"for more: dvc list-url remote://{name} -v; to change it: dvc remote modify {name} url URL"
        yield reached(f"remote {name}", url, advice, embedded and not pulled, remote=name)


def reached(what: str, address: str, advice: str, needed: bool = True, remote: str = "") -> Finding:
    """Check that a file or folder exists, or that a server answers. remote: the name of the address in DVC."""
    fault = ""
    if "://" not in address:
        fault = "" if Path(address).exists() else "no such file or folder"
    elif address.startswith("http"):
        import requests

        try:
            with requests.get(address, timeout=SERVER, stream=True) as answer:  # some servers reject HEAD
                if answer.status_code >= (500 if remote else 400):  # the root of a remote may not be a page
                    fault = f"answers {answer.status_code} {answer.reason}"
        except OSError as error:  # requests' errors are OSErrors
            fault = f"does not answer ({type(error).__name__})"
    elif remote:  # before the first pull, `dvc status --cloud` reports everything in sync
        _, fault = ask(*DVC, "list-url", f"remote://{remote}", seconds=REMOTE)
        _, _, missing = fault.rstrip("/").partition(" does not exist: ")
        if missing and address.rstrip("/").endswith(missing):  # the bucket answers, but nothing was pushed yet
            fault = ""
    return Finding(not fault, f"{what}: {redacted(address)}, {fault or 'reachable'}", advice, needed)


def ask(*command: str, seconds: float = COMMAND) -> tuple[str, str]:
    """Run a command. Returns its output and, if it fails, the reason."""
    wide = os.environ | {"COLUMNS": "9999"}  # or DVC wraps its tables
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds, env=wide)
        return run.stdout, ""
    except (OSError, subprocess.SubprocessError) as error:
        found = re.search(r"^(?:ERROR|fatal): (.+)", str(getattr(error, "stderr", "")), re.MULTILINE)
        return "", found[1] if found else str(error)
