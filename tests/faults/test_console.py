"""Interrupted at every single change that it makes to the disk, an output is the old one, the new one, or absent."""

import shutil
from pathlib import Path

import pytest

from framebudget.console import new_folder, write_text
from tests.faults.state import digest


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
                    next(path.iterdir()).unlink()
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
            assert changes < 5  # two of leftovers, two names, one removal
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
