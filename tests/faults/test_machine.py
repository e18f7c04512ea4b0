"""What a machine does to a stage: full disks, folders that take nothing, no memory, killed workers, a wrong clock."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import run, set_params
from tests.faults.state import digest, left_behind, unfinished_runs
from tests.test_train import start, wait_for_an_epoch

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
        folder.rmdir()
        moved.rename(folder)


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
        assert "error: X3D-M 2f-s0: the disk is full; make room" in fails(*TRAIN, cwd=fresh)
        assert not (work / "x3d_m").exists()
        (work / "filler").unlink()
        run(*TRAIN, cwd=fresh)
        assert digest(work / "x3d_m") == digest(trained / "work/x3d_m")
        assert not left_behind(fresh)


def test_a_full_disk_in_figures(study):
    right = digest(study / "work/figures")
    with small_disk(study / "work", "600m") as work:
        fill(work, leave=1 << 20)  # it draws two MB
        assert "error: the disk is full; make room" in fails("python", "-m", "framebudget.figures", cwd=study)
        assert digest(work / "figures") == right  # the old ones stay
        (work / "filler").unlink()
        run("python", "-m", "framebudget.figures", cwd=study)
        assert digest(work / "figures") == right
        assert not left_behind(study)


@pytest.mark.parametrize(("command", "file"), [(FETCH, "work/"), (TRAIN, "{work}/x3d_m.lock'")])
def test_a_folder_that_takes_nothing(fresh, command, file):
    with small_disk(fresh / "work", "200m") as work:
        subprocess.run(["mount", "-o", "remount,ro", work], check=True)
        assert f"Read-only file system: '{file.format(work=work)}" in fails(*command, cwd=fresh)


def without_privileges(*command: str) -> tuple[str, ...]:
    """So that a file's permissions count for root, too."""
    if os.geteuid():
        return command
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv, and root may read everything")
    return "setpriv", "--bounding-set=-dac_override,-dac_read_search", *command


@pytest.mark.parametrize("command", [FETCH, TRAIN])
def test_a_clip_that_may_not_be_read_is_named(fresh, clips, command, tmp_path):
    set_params(fresh, clips=str(shutil.copytree(clips, tmp_path / "clips")))
    clip = sorted((tmp_path / "clips").rglob("*.avi"))[7]
    clip.chmod(0)
    output = fails(*without_privileges(*command), cwd=fresh)
    assert clip.name in output
    assert "ermission denied" in output
    clip.chmod(0o644)
    run(*command, cwd=fresh)


@pytest.mark.parametrize("command", [TRAIN, ("python", "-m", "framebudget.evaluate")])
def test_a_clip_that_was_replaced_since_fetch_is_found_by_its_hash(fresh, clips, command, tmp_path):
    """By another of the same size, at the same time."""
    set_params(fresh, clips=str(shutil.copytree(clips, tmp_path / "clips")))
    clip = sorted((tmp_path / "clips").rglob("*.avi"))[7]
    told, content = clip.stat(), bytearray(clip.read_bytes())
    content[-1] ^= 1
    clip.write_bytes(content)
    os.utime(clip, ns=(told.st_atime_ns, told.st_mtime_ns))
    says = f"{clip.name}: missing, or changed since fetch; run it again: dvc repro -f fetch"
    assert says in fails(*command, cwd=fresh)


def test_a_step_that_memory_does_not_suffice_for(fresh):
    """In 5 GB of addresses, half of which torch takes for itself."""
    set_params(fresh, **{"train.batch_size": 8, "datasets.folder.input.short_side": 256,
                         "datasets.folder.input.crop": 256, "frames": [16], "workers": 0})  # fmt: skip
    output = fails("bash", "-c", f"ulimit -v 5000000; exec {' '.join(TRAIN)}", cwd=fresh)
    assert "out of memory; lower side_by_side, train.batch_size, input.crop, frames or workers (params.yaml)" in output


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(group: int) -> list[str]:
    """The command lines of what is left of a process group."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = status.read_text().rpartition(") ")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(status.with_name("cmdline").read_text().replace("\0", " "))
    return found


def test_a_worker_that_the_system_kills(fresh, trained):
    set_params(fresh, **{"train.epochs": 200, "train.patience": 200})
    process = start(*TRAIN, cwd=fresh)
    wait_for_an_epoch(process, fresh, {})
    os.kill(children(process.pid)[0], signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    said = "a process that reads clips was killed; if memory ran out, lower workers (params.yaml)"
    assert f"error: X3D-M 2f-s0: {said}" in output
    assert "Traceback" not in output
    set_params(fresh, **{"train.epochs": 2, "train.patience": 5})
    run(*TRAIN, cwd=fresh)
    assert digest(fresh / "work/x3d_m") == digest(trained / "work/x3d_m")


def many(clips: Path, folder: Path) -> Path:
    for clip in clips.rglob("*.avi"):
        (folder / clip.parent.name).mkdir(parents=True, exist_ok=True)
        for number in range(40):
            shutil.copy(clip, folder / clip.parent.name / clip.name.replace("c01", f"c{number:02d}"))
    return folder


def test_a_decoder_of_fetch_that_the_system_kills(fresh, clips, tmp_path):
    set_params(fresh, clips=str(many(clips, tmp_path / "clips")))
    process = start(*FETCH, cwd=fresh)
    while not children(process.pid):
        time.sleep(0.01)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert "error: a process that reads clips was killed" in output


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", [FETCH, TRAIN])
def test_workers_do_not_outlive_the_stage(fresh, clips, command, sent, tmp_path):
    set_params(fresh, **{"train.epochs": 200, "train.patience": 200})
    if command == FETCH:
        set_params(fresh, clips=str(many(clips, tmp_path / "clips")))
    process = start(*command, cwd=fresh)
    try:
        if command == TRAIN:
            wait_for_an_epoch(process, fresh, {})
        while not children(process.pid):
            time.sleep(0.01)
        send = os.killpg if sent == signal.SIGINT else os.kill  # a terminal sends Ctrl-C to the workers too
        send(process.pid, sent)
        process.wait(60)
        for _ in range(150):
            if not alive(process.pid):
                break
            time.sleep(0.1)
        assert not alive(process.pid)
        assert process.returncode in ((130, 1) if sent == signal.SIGINT else (-sent, 128 + sent))  # Lightning's is 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def last_year() -> dict[str, str]:
    """An environment in which it is."""
    found = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]
    if not found:
        pytest.skip("no libfaketime (Debian: apt-get install libfaketime)")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": "-365d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_a_training_goes_on_when_the_clock_was_set_back(fresh, trained):
    process = start(*TRAIN, cwd=fresh)
    wait_for_an_epoch(process, fresh, {})
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(*TRAIN, cwd=fresh, **last_year())
    assert digest(fresh / "work/x3d_m") == digest(trained / "work/x3d_m")
    assert not unfinished_runs(fresh)


def test_a_clip_that_is_changed_when_the_clock_was_set_back_is_noticed(study):
    before = {path.name: path.stat().st_mtime for path in (study / "work").iterdir()}
    assert "up to date" in run("dvc", "repro", cwd=study, **last_year()).stdout
    output = run("python", "-c", "import time; print(time.time())", cwd=study, **last_year()).stdout
    assert float(output) < min(before.values()) - 300 * 86400
    (clip, *_) = sorted((study.parent / "clips").rglob("*.avi"))
    run("python", "-c", f"open({str(clip)!r}, 'ab').write(b'more')", cwd=study, **last_year())
    try:
        assert "fetch" in run("dvc", "status", cwd=study, **last_year()).stdout
    finally:
        os.truncate(clip, clip.stat().st_size - 4)
