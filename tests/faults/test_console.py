"""Which errors are one line and which a traceback; and outputs that are never half written.

Interrupted at any single change that it makes to the disk, an output is the old one, the new one, or absent.
"""

import errno
import shutil
import sqlite3
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from framebudget.console import BUG, Bug, UserError, new_file, new_folder, read_csv, redacted, stage, write_text
from framebudget.study import read_table
from tests.faults.state import digest


class ClipError(UserError):
    pass


IN_A_LOADER = (  # as torch raises an error of a loader's process
    'Caught an error in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "a.py"\n{}'
)


def ended(error: BaseException, capsys) -> tuple[object, str]:
    """The status or message that a stage ends with when its main() raises this error, and what it prints before."""

    @stage
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("clips: no such folder; name another"), "error: clips: no such folder; name another"),
        (ClipError("b\x1b[2J.avi: broken\nc.avi: broken"), "error: b\\x1b[2J.avi: broken\nc.avi: broken"),
        (PermissionError(errno.EACCES, "Permission denied", "work"), "error: [Errno 13] Permission denied: 'work'"),
        (OSError(errno.EROFS, "Read-only file system"), "error: [Errno 30] Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: the disk is full; make room, and run the same"),
        (sqlite3.OperationalError("database or disk is full"), "error: the disk is full; make room"),
        (RuntimeError("[enforce fail] unexpected pos 704 vs 598"), "error: the disk is full; make room"),
        (MemoryError(), "error: out of memory; lower side_by_side, train.batch_size, input.crop, frames or workers"),
        (RuntimeError("CUDA out of memory. Tried 2 GiB"), "error: out of memory; lower side_by_side, train.batch_size"),
        (
            BrokenProcessPool("A process in the process pool was terminated abruptly"),
            "error: a process that decodes clips was killed",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "error: a process that reads clips"),
        (
            ClipError(IN_A_LOADER.format(f"{__name__}.ClipError: a.avi: broken\nb.avi: broken\n")),
            "error: a.avi: broken\nb.avi: broken",
        ),
    ],
    ids=repr,
)
def test_errors_of_the_user_and_the_machine_are_one_line(error, message, capsys, monkeypatch):
    monkeypatch.delenv("FRAMEBUDGET_DEBUG", raising=False)
    code, printed = ended(error, capsys)
    assert code.startswith(message)
    assert not printed


def test_the_list_of_processes_in_an_error_of_cuda_is_cut(capsys):
    code, _ = ended(RuntimeError("CUDA out of memory." + 50 * " Process 1 has 2 GiB in use."), capsys)
    assert len(code) < 400
    assert code.endswith(" …)")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a number"), KeyError("clip"), RuntimeError("shapes"), FloatingPointError("nan"), ImportError("av"),
        FileNotFoundError(errno.ENOENT, "No such file", "work/x"), OSError("anything"), AssertionError(),
        KeyError(IN_A_LOADER.format("KeyError: 'clip'")), Bug("X3D-M 6f-s0: Traceback\nX3D-M 8f-s0: out of memory"),
    ],
    ids=repr,
)  # fmt: skip
def test_anything_else_is_a_bug_with_its_traceback(error, capsys):
    code, printed = ended(error, capsys)
    assert code == BUG
    assert "report it" in BUG
    assert "\n" not in BUG
    assert printed.startswith("Traceback (most recent call last):\n")
    assert "raise error\n" in printed


def test_the_debug_switch_shows_every_traceback(capsys, monkeypatch):
    for value, shows in (("1", True), ("0", False), ("", False)):
        monkeypatch.setenv("FRAMEBUDGET_DEBUG", value)
        for error in (UserError("clips: none"), MemoryError("out of memory")):
            code, printed = ended(error, capsys)
            assert code.startswith("error: ")
            assert ("Traceback" in printed and "raise error\n" in printed) is shows


def test_statuses_and_return_values_pass(capsys):
    assert ended(KeyboardInterrupt(), capsys) == (130, "")
    assert ended(SystemExit(2), capsys) == (2, "")
    assert stage(lambda: None)() is None


def test_what_could_not_be_written_leaves_nothing(tmp_path):
    for new in (new_file, new_folder):
        with pytest.raises(OSError, match="full"), new(tmp_path / "out") as unfinished:
            (unfinished / "a" if unfinished.is_dir() else unfinished).write_text("half")
            raise OSError("full")
    assert not list(tmp_path.iterdir())


def test_a_table_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"manifest.csv: No such file or directory; make it again: dvc repro"):
        read_csv(tmp_path / "manifest.csv", {"clip": str})
    with pytest.raises(UserError, match=r"results.csv: no such file; make it: dvc repro"):
        read_table(tmp_path / "results.csv")


def test_no_password_is_printed():
    assert redacted("postgresql://user:secret@host:5432/x") == "postgresql://user:***@host:5432/x"
    assert redacted("postgresql://user:se/cr@t@host:5432/x") == "postgresql://user:***@host:5432/x"
    assert redacted("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"


def fill(folder: Path, content: str) -> None:
    for name in "abc":
        (folder / name).write_text(content)


class Interrupted:
    """Lets so many changes happen; of a folder's removal that is one too many, a part."""

    def __init__(self, monkeypatch, changes: int):
        self.left = changes
        for owner, name in ((shutil, "rmtree"), (Path, "rename"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, change):
        def counted(path: Path, *arguments, **named):
            self.left -= 1
            if self.left < 0:
                if change.__name__ == "rmtree" and path.exists():
                    next(file for file in path.rglob("*") if file.is_file()).unlink()
                raise KeyboardInterrupt
            return change(path, *arguments, **named)

        return counted


@pytest.mark.parametrize("changes", range(7))
def test_a_folder_is_never_a_part_of_one(tmp_path, monkeypatch, changes):
    for name, content in (("out", "old"), ("wanted", "new")):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, content)
    out, old, new = tmp_path / "out", digest(tmp_path / "out"), digest(tmp_path / "wanted")
    with monkeypatch.context() as during:
        interrupted = Interrupted(during, changes)
        try:
            with new_folder(out) as folder:
                fill(folder, "new")
            assert interrupted.left >= 0
        except KeyboardInterrupt:
            assert changes < 4  # leftovers, two names, one removal
    assert digest(out) in (None, old, new)
    with new_folder(out) as folder:
        fill(folder, "new")
    assert digest(out) == new
    assert {path.name for path in tmp_path.iterdir()} == {"out", "wanted"}


@pytest.mark.parametrize("changes", range(2))
def test_a_file_is_never_a_part_of_one(tmp_path, monkeypatch, changes):
    out = tmp_path / "out"
    out.write_text("old")
    with monkeypatch.context() as during:
        Interrupted(during, changes)
        try:
            write_text(out, "new")
        except KeyboardInterrupt:
            assert out.read_text() == "old"
    write_text(out, "new")
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_in_the_place_of_a_folder_is_replaced_however_often(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").touch()
    (tmp_path / "out").symlink_to("elsewhere")
    for _ in range(2):
        with new_folder(tmp_path / "out") as folder:
            fill(folder, "new")
        assert not (tmp_path / "out").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]
    assert (tmp_path / "elsewhere/mine").exists()
