"""The store of trainings: a finished training is never repeated, and an interrupted one resumes.

work/trainings/<network>-<name>-<identity>/, at the top of the repository for all of its experiments:

    last.ckpt               the state of an unfinished training
    <name>.pt, curve.csv    the weights of the best epoch and the learning curve of a finished one
    finished.json           the sha256 of both; written last, and without it the training is unfinished
    lock                    held by the process that trains it
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from framebudget.console import sha256, write_text
from framebudget.repository import top
from framebudget.study import STORE, Training

FINISHED = "finished.json"


def holds(training: Training) -> bool:
    """Whether the training is finished. If it is damaged, it is no longer, and is trained again."""
    folder = training.folder
    if not (folder / FINISHED).exists():
        return False
    try:
        digests = json.loads((folder / FINISHED).read_text())
        sound = all(sha256(folder / name) == digests[name] for name in files(training))
        os.utime(folder / FINISHED)
    except (ValueError, TypeError, KeyError, FileNotFoundError):
        sound = False
    if not sound:
        print(f"{training.title}: damaged in {STORE}; training it again")
        (folder / FINISHED).unlink(missing_ok=True)
    return sound


def seal(training: Training) -> None:
    """Mark a training as finished, once its weights and its curve are written."""
    digests = {name: sha256(training.folder / name) for name in files(training)}
    write_text(training.folder / FINISHED, json.dumps(digests, indent=2) + "\n")
    (training.folder / "last.ckpt").unlink(missing_ok=True)


def files(training: Training) -> list[str]:
    """The names of the weights and the curve of a finished training."""
    return [f"{training.name}.pt", "curve.csv"]


def lock(training: Training, timeout: float = -1) -> FileLock:
    """The lock of a training. Acquiring it waits for the process that holds it."""
    training.folder.mkdir(parents=True, exist_ok=True)
    return FileLock(training.folder / "lock", timeout=timeout)


def clear(folder: Path) -> None:
    """Remove a training, finished.json first: if the removal is interrupted, the rest does not look finished."""
    (folder / FINISHED).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def contents() -> pd.DataFrame:
    """One row per training, most recently used first: folder, finished, GB, and days since it was used."""
    rows = []
    for folder in (path for path in (top() / STORE).glob("*/") if path.is_dir()):
        try:
            found = [file.stat() for file in (folder, *folder.iterdir())]
        except FileNotFoundError:  # another process is writing or removing it
            continue
        size = sum(file.st_size for file in found[1:])
        days = max(0.0, (time.time() - max(file.st_mtime for file in found)) / 86400)
        rows.append({"folder": folder, "finished": (folder / FINISHED).exists(), "GB": size / 1e9, "days": days})
    columns = ["folder", "finished", "GB", "days"]
    return pd.DataFrame(rows, columns=columns).sort_values(["days", "folder"], ignore_index=True)


def prune(limit: float, needed: list[Training]) -> None:
    """Remove trainings, least recently used first, until the store has at most `limit` GB.

    Keeps those in `needed` and those that another process is training, even if the store then stays larger.
    """
    kept = {training.folder for training in needed}
    table = contents()
    over = table["GB"].sum() - limit
    for row in table[::-1].itertuples():
        if over <= 0:
            break
        if row.folder in kept:
            continue
        with contextlib.suppress(Timeout), FileLock(row.folder / "lock", timeout=0):
            clear(row.folder)
            over -= row.GB
            print(f"removed from {STORE} (over {limit:g} GB, `store` in params.yaml): {row.folder.name}")
