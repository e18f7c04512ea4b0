"""Nothing private leaves with an experiment, and no result is lost."""

import os
import subprocess
from pathlib import Path

import pytest

from framebudget import params
from framebudget.console import UserError
from framebudget.fetch import check_exposed
from framebudget.params import ParamsError
from framebudget.repository import exposed, top
from framebudget.sources.folder import VIDEOS
from tests.conftest import ROOT, set_params

IDENTITY = "-c", "user.name=a", "-c", "user.email=a@example.org"


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *IDENTITY, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this project's params.yaml and .gitignore, of two commits. We are in it."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("params.yaml", ".gitignore"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "one")
    git(folder, "commit", "--quiet", "--message", "two", "--allow-empty")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("suffix", sorted(VIDEOS))
def test_git_ignores_every_video_that_is_read(clone: Path, suffix: str) -> None:
    for name in (f"a{suffix}", f"mine/wave/b{suffix.upper()}", f"mine/c{suffix.title()}"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    assert exposed(clone) == []


def test_what_lies_beside_clips_in_the_repository_stops_fetch(clone: Path, tmp_path: Path) -> None:
    for folder in (clone / "mine", tmp_path / "outside"):
        folder.mkdir()
        (folder / "names.txt").write_text("private")
    check_exposed(tmp_path / "outside")
    with pytest.raises(UserError, match=r"mine is in the repository.* commit mine/names\.txt.*\.gitignore: /mine$"):
        check_exposed(Path("mine"))
    with (clone / ".gitignore").open("a") as file:
        file.write("/mine\n")
    check_exposed(Path("mine"))


def test_a_name_that_is_not_utf8_hides_nothing(clone: Path) -> None:
    Path("mine").mkdir()
    Path("mine", "names.txt").touch()
    Path("mine", os.fsdecode(b"\xe9.txt")).touch()
    with pytest.raises(UserError, match=r"commit mine/names\.txt"):
        check_exposed(Path("mine"))


def test_a_zip_of_clips_in_the_repository_stops_fetch_too(clone: Path) -> None:
    Path("mine.zip").touch()
    with pytest.raises(UserError, match=r"commit mine\.zip"):
        check_exposed(Path("mine.zip"))


def test_a_copy_of_a_shallow_clone_computes_nothing(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth", "1", clone.as_uri(), str(shallow))
    copy = shallow / ".dvc/tmp/exps/standalone/x"
    copy.mkdir(parents=True)
    (copy / "params.yaml").write_bytes((clone / "params.yaml").read_bytes())
    monkeypatch.chdir(shallow)
    params.load()  # in the clone itself, a result stays
    monkeypatch.chdir(copy)
    assert top() == shallow
    with pytest.raises(UserError, match="git fetch --unshallow"):
        params.load()
    git(shallow, "fetch", "--quiet", "--unshallow")
    params.load()


@pytest.mark.parametrize("weights", ["work/x3d_m/6f-s0.pt", "work/given/start.pt"])
def test_weights_that_dvc_would_remove_are_refused(clone: Path, weights: str) -> None:
    set_params(clone, **{"datasets.folder.x3d_m.weights": weights})
    with pytest.raises(ParamsError, match=r"folder\.x3d_m\.weights: DVC removes what is in work/.*copy the file"):
        params.load()
    set_params(clone, **{"datasets.folder.x3d_m.weights": "workshop/start.pt"})
    params.load()
