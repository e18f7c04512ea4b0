"""A folder ready to train in, and the same, trained without any fault."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, run, set_params
from tests.faults.kill import tiny_study


@pytest.fixture(scope="package")
def split(clips, tmp_path_factory) -> Path:
    """9 clips to train on, read by a worker; 2 frames, 2 epochs of 2 batches."""
    folder = tmp_path_factory.mktemp("split")
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(
        folder, dataset="folder", clips=str(clips), frames=[2], workers=1, **{
            "train.epochs": 2, "train.batch_size": 4, "datasets.folder.fetch.group": r"_(g\d+)_",
            "datasets.folder.input.short_side": 40, "datasets.folder.input.crop": 32,
        },
    )  # fmt: skip
    for stage in ("fetch", "split"):
        run("python", "-m", f"framebudget.{stage}", cwd=folder)
    return folder


@pytest.fixture(scope="package")
def trained(split) -> Path:
    folder = shutil.copytree(split, split.with_name("trained"))
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
