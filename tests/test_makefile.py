"""`make .venv/ready` with fake programs that log their calls, and `make scm` with and without git; no downloads."""

import os
import re
import shutil

import pytest

from tests.conftest import ROOT, fresh_repository, run

FAKE = """#!/bin/sh
echo "$0 $*" >> "$LOG"
case "$0 $*" in $FAIL) echo "$0 fails" >&2; exit 1;; esac
case "$*" in
    *"venv --clear"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    *requirements-uv.lock) cp "$0" .venv/bin/uv;;
esac
"""
PIP = ".venv/bin/python -m pip --quiet --disable-pip-version-check install"
COMPILE = ".venv/bin/python -c import framebudget.learning.fit"
UV = "uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock"


@pytest.fixture(autouse=True)
def no_make_above(monkeypatch):
    """`make test` tells the makes below it to say which folder they enter."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make(tmp_path):
    """A function that runs `make .venv/ready` in a bare folder: (its result, the calls). fail: a pattern of calls."""
    folder, programs, log = tmp_path / "project", tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    programs.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-uv.lock"):
        shutil.copy(ROOT / name, folder)
    for name in ("make", "sh", "cp", "rm", "mv", "touch", "mkdir", "sleep", "echo"):
        (programs / name).symlink_to(shutil.which(name))

    def make(uv: bool, fail: str = "nothing"):
        for name in ["python3"] + ["uv"] * uv:
            (programs / name).write_text(FAKE)
            (programs / name).chmod(0o755)
        log.write_text("")
        result = run("make", ".venv/ready", cwd=folder, check=False, PATH=str(programs), LOG=str(log), FAIL=fail)
        assert (folder / ".venv/ready").exists() == (result.returncode == 0)
        calls = log.read_text().replace(f"{programs}{os.sep}", "").replace(f"{folder}{os.sep}", "").splitlines()
        calls = [call for call in calls if call != COMPILE]  # in the background: it may log late
        return result, [call for call in calls if not call.endswith("--version") and not call.startswith("python3 -c")]

    return make


EDITABLE = f"{PIP} --no-deps --no-build-isolation -e ."
GET_UV = f"{PIP} --only-binary :all: --require-hashes -r requirements-uv.lock"
BY_PIP = ["python3 -m venv --clear .venv", f"{PIP} --require-hashes -r requirements.lock", EDITABLE]


@pytest.mark.parametrize(
    ("uv", "fail", "calls"),
    [
        (True, "nothing", [UV, EDITABLE]),
        (False, "nothing", [GET_UV, f".venv/bin/{UV}", EDITABLE]),
        (True, "*bin/uv --version", [GET_UV, f".venv/bin/{UV}", EDITABLE]),  # a launcher of an uninstalled version
        (True, "*uv pip install*", [UV, *BY_PIP]),
        (False, "*uv pip install*", [GET_UV, f".venv/bin/{UV}", *BY_PIP]),
        (False, "*requirements-uv.lock", [GET_UV, *BY_PIP]),
    ],
    ids=["own uv", "no uv", "broken uv", "own uv has no index", "uv has no index", "uv cannot be installed"],
)
def test_uv_installs_the_packages_and_pip_takes_over_if_it_fails(make, uv, fail, calls):
    result, called = make(uv, fail)
    assert result.returncode == 0
    assert called == ["python3 -m venv .venv", *calls]
    assert ("so pip does" in result.stdout) == (BY_PIP[1] in calls)
    assert result.stdout.startswith("Installing packages into .venv")


@pytest.mark.parametrize("uv", [True, False])
def test_if_both_fail_pips_error_is_the_last_and_the_next_run_starts_afresh(make, uv):
    result, _ = make(uv, "*-r requirements.lock")
    assert result.returncode
    assert ".venv/bin/python fails\nmake: ***" in result.stderr
    result, called = make(uv)
    assert result.returncode == 0
    assert called[0] == "python3 -m venv --clear .venv"
    assert make(uv)[1] == []  # all is there


def test_a_folder_that_no_repository_tracks_is_used_without_git(tmp_path):
    """A ZIP, first inside another repository that ignores it, then with a repository of its own."""
    folder = tmp_path / "zip"
    folder.mkdir()
    shutil.rmtree(fresh_repository(folder) / ".git")
    run("git", "init", "-q", cwd=tmp_path)
    (tmp_path / ".gitignore").write_text("/zip")

    def scm():
        return run("make", "-o", ".venv/ready", "scm", cwd=folder).stdout

    assert "This folder is not a git repository. The study runs without one" in scm()
    assert scm() == ""
    run("dvc", "pull", "-q", "data.dvc", cwd=folder)
    assert (folder / "data/motion").is_dir()
    run("git", "init", "-q", cwd=folder)
    assert scm() == "This folder is a git repository now: DVC uses it\n"
    assert scm() == ""
    assert "no_scm" not in (folder / ".dvc/config.local").read_text()


def test_a_folder_that_a_larger_repository_tracks_is_used_with_git(tmp_path):
    (tmp_path / "study").mkdir()
    fresh_repository(tmp_path / "study")
    shutil.rmtree(tmp_path / "study/.git")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "add", "study/dvc.yaml", cwd=tmp_path)
    run("git", *author, "commit", "-qm", "all", cwd=tmp_path)
    assert run("make", "-o", ".venv/ready", "scm", cwd=tmp_path / "study").stdout == ""


def test_no_value_ends_in_the_spaces_before_a_comment():
    """make keeps them, and a program does not take "9999  " for a number."""
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert not [line for line in lines if re.match(r"[^\t#].*[:?]?= *[^#]*\S +#(?!#)", line)]
