"""A folder ready to train in, and the same, trained without any fault."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import ready_to_train, run
from tests.faults.kill import tiny_study


@pytest.fixture(scope="package")
def split(clips, tmp_path_factory) -> Path:
    """Read by a worker; 2 frames, 2 epochs of 2 batches."""
    return ready_to_train(clips, tmp_path_factory.mktemp("split"), frames=[2], workers=1, **{"train.epochs": 2})


@pytest.fixture(scope="package")
def trained(split, tmp_path_factory) -> Path:
    folder = shutil.copytree(split, tmp_path_factory.mktemp("trained"), dirs_exist_ok=True)
    run("python", "-m", "framebudget.train", "x3d_m", cwd=folder)
    return folder


@pytest.fixture
def fresh(split, tmp_path) -> Path:
    return shutil.copytree(split, tmp_path / "fresh")


@pytest.fixture(scope="package")
def study(tmp_path_factory) -> Path:
    """A whole study, finished by `dvc repro`; its clips lie beside it, in `clips`."""
    folder = tiny_study(tmp_path_factory.mktemp("study"))
    run("dvc", "repro", cwd=folder)
    return folder
