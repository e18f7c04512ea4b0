"""DVC: a damaged cache, two at once, locks left behind, and a kill while DVC stores what a stage has made."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import run, set_params
from tests.faults.state import digests, left_behind
from tests.test_train import start, wait_for_an_epoch

pytestmark = pytest.mark.slow
OUTS = ["work/manifest.csv", "work/split.csv", "work/x3d_m", "work/slowfast_r50", "work/tables", "work/figures",
        "paper/paper.pdf"]  # fmt: skip


@pytest.fixture
def again(study, tmp_path) -> Path:
    """A copy of the finished study."""
    return shutil.copytree(study, tmp_path / "again", symlinks=True)


def cached(study: Path, out: str) -> Path:
    lock = yaml.safe_load((study / "dvc.lock").read_text())["stages"]
    md5 = next(found["md5"] for stage in lock.values() for found in stage["outs"] if found["path"] == out)
    return study / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


@pytest.mark.parametrize("out", ["work/predictions.csv", "work/x3d_m"])
def test_a_damaged_cache_entry_never_comes_back_as_an_output(again, study, out):
    """Of a file, and the list of a folder's files: DVC finds it, drops it, and makes the output anew."""
    right = digests(study, [*OUTS, out])
    entry = cached(again, out)
    entry = entry if entry.exists() else entry.with_name(entry.name + ".dir")
    damage(entry)
    shutil.rmtree(again / out) if (again / out).is_dir() else (again / out).unlink()
    run("dvc", "repro", cwd=again)
    assert digests(again, [*OUTS, out]) == right


def test_a_damaged_clip_in_the_cache_is_brought_again_by_pull(repository, tmp_path):
    folder = shutil.copytree(repository, tmp_path / "folder", symlinks=True)
    clip = next((folder / "data/motion").glob("*/*.avi"))
    right = clip.read_bytes()
    (entry,) = (file for file in (folder / ".dvc/cache/files/md5").glob("*/*") if file.read_bytes() == right)
    damage(entry)
    clip.unlink()
    run("dvc", "pull", "data.dvc", cwd=folder)
    assert clip.read_bytes() == right


def test_of_two_at_once_one_says_who_is_at_work_and_the_other_ends_right(again, study):
    shutil.rmtree(again / "work")
    (again / "dvc.lock").unlink()
    shutil.rmtree(again / ".dvc/cache/runs")
    first = start("dvc", "repro", cwd=again)
    while not (again / ".dvc/tmp/rwlock").exists() or "work" not in (again / ".dvc/tmp/rwlock").read_text():
        time.sleep(0.01)
    second = start("dvc", "repro", cwd=again)
    output = second.communicate(timeout=300)[0]
    assert second.returncode
    assert f"(PID {first.pid})" in output or "Unable to acquire lock" in output
    assert first.wait(300) == 0
    assert digests(again, OUTS) == digests(study, OUTS)
    assert not left_behind(again)


def test_without_dvc_too_only_one_trains(fresh, trained):
    command = ("python", "-m", "framebudget.train", "x3d_m")
    set_params(fresh, **{"train.epochs": 400, "train.patience": 400})
    first = start(*command, cwd=fresh)
    wait_for_an_epoch(first, fresh, {})
    second = run(*command, cwd=fresh, check=False)
    assert first.poll() is None
    assert second.returncode == 1
    assert "error: another process is training x3d_m in this folder: wait for it, or end it" in second.stderr
    os.kill(first.pid, signal.SIGKILL)  # its worker lives some seconds longer
    set_params(fresh, **{"train.epochs": 2, "train.patience": 5})
    run(*command, cwd=fresh)
    assert digests(fresh, ["work/x3d_m"]) == digests(trained, ["work/x3d_m"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "rwlock",
            lambda path: json.dumps({"write": {str(path / "work/split.csv"): {"pid": 2**22 + 1, "cmd": "dvc"}}}),
        ),
        ("lock", lambda path: " 4194305\n"),
    ],
)
def test_a_lock_that_a_dead_process_left_is_no_obstacle(again, study, name, content):
    (again / "work/split.csv").unlink()
    (again / ".dvc/tmp" / name).write_text(content(again))
    run("dvc", "repro", cwd=again)
    assert digests(again, OUTS) == digests(study, OUTS)


def test_half_a_list_of_locks_is_to_be_removed(again):
    """DVC writes it in place: a kill in that instant leaves an empty file."""
    (again / ".dvc/tmp/rwlock").write_text("")
    result = run("dvc", "repro", cwd=again, check=False)
    assert result.returncode
    assert "Unable to read RWLock-file '.dvc/tmp/rwlock'" in result.stderr
    (again / ".dvc/tmp/rwlock").unlink()
    run("dvc", "repro", cwd=again)


def test_a_training_that_dvc_had_no_time_to_store_is_not_repeated(again, study):
    """Killed when the stage is through and its outputs are there, but dvc.lock does not name them: DVC removes them."""
    lock = yaml.safe_load((again / "dvc.lock").read_text())
    del lock["stages"]["train_x3d"]
    (again / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(again / "work/x3d_m")
    shutil.rmtree(again / ".dvc/cache/runs")
    process = start("dvc", "repro", "train_x3d", cwd=again)
    while not (again / "work/x3d_m").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert "train_x3d" not in yaml.safe_load((again / "dvc.lock").read_text())["stages"]
    output = run("dvc", "repro", "train_x3d", cwd=again).stdout
    assert "Running stage 'train_x3d'" in output
    assert "validation accuracy" not in output
    run("dvc", "repro", cwd=again)
    assert digests(again, OUTS) == digests(study, OUTS)
