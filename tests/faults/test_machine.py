"""What a machine does to a stage: full disks, folders that take nothing, killed workers, no memory, a clock set back."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from framebudget.console import new_folder
from tests.conftest import run, set_params
from tests.faults.state import digest, left_behind
from tests.test_train import start

pytestmark = pytest.mark.slow
TRAIN = ("python", "-m", "framebudget.train", "x3d_m")
FETCH = ("python", "-m", "framebudget.fetch")


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A disk of its own for this folder, with what was in it."""
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        moved.rename(folder)
        pytest.skip(f"a small disk takes root: {mounted.stderr.strip()}")
    try:
        shutil.copytree(moved, folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fails(*command: str, cwd: Path, **more) -> str:
    result = run(*command, cwd=cwd, check=False, **more)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    return result.stderr


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_full_disk_in_fetch(fresh, blocks):
    right = digest(fresh / "work/manifest.csv")
    shutil.rmtree(fresh / "work")
    (fresh / "work").mkdir()
    with small_disk(fresh / "work", "64k") as work:
        fill(work, leave=blocks * 4096)
        assert "error: the disk is full; make room" in fails(*FETCH, cwd=fresh)
        assert not (work / "manifest.csv").exists()
        (work / "filler").unlink()
        run(*FETCH, cwd=fresh)
        assert digest(work / "manifest.csv") == right
        assert not left_behind(fresh)


def fill(folder: Path, leave: int) -> None:
    free = os.statvfs(folder)
    with (folder / "filler").open("wb") as filler:
        filler.write(bytes(free.f_bavail * free.f_frsize - leave))


@pytest.mark.parametrize("megabytes", [1, 20, 60])
def test_a_full_disk_in_training(fresh, trained, megabytes):
    """At the state of the first epoch; at that of the second; at the weights."""
    with small_disk(fresh / "work", "200m") as work:
        fill(work, leave=megabytes << 20)
        assert "error: the disk is full; make room" in fails(*TRAIN, cwd=fresh)
        assert not (work / "x3d_m").exists()
        (work / "filler").unlink()
        run(*TRAIN, cwd=fresh)
        assert digest(work / "x3d_m") == digest(trained / "work/x3d_m")
        assert not left_behind(fresh)
