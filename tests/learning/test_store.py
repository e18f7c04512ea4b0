"""What is finished is kept, found by its identity, checked, and dropped when the store is full."""

import errno
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from framebudget import params, study
from framebudget.console import UserError
from framebudget.learning import fit, store
from framebudget.study import STORE, Study
from framebudget.train import collect
from tests.conftest import ROOT, set_params


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Three of X3D-M, finished on the third, the second and the first day before today: 1 MB each."""
    monkeypatch.chdir(tmp_path)
    ready(tmp_path)
    found = Study(params.load(), pd.DataFrame({"fold": [0]})).trainings()
    for days, training in zip((3, 2, 1), found, strict=True):
        training.folder.mkdir(parents=True)
        (training.folder / f"{training.name}.pt").write_bytes(bytes(1_000_000))
        (training.folder / "curve.csv").write_text("epoch\n0\n")
        store.seal(training)
        for path in (*training.folder.iterdir(), training.folder):
            os.utime(path, (time.time() - 86400 * days,) * 2)
    return found


def ready(folder):
    (folder / "work").mkdir()
    (folder / "work/split.csv").write_text("clip")
    (folder / "work/weights.json").write_text('{"x3d_m": null}')
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(folder, models=["x3d_m"], frames=[1, 2, 3])


def left():
    return sorted(path.name.split("-")[1] for path in STORE.iterdir())


def test_a_queued_experiment_finds_the_trainings_of_the_repository(trainings, monkeypatch):
    copy = Path(".dvc/tmp/exps/tmpx").absolute()
    copy.mkdir(parents=True)
    ready(copy)
    monkeypatch.chdir(copy)
    same = Study(params.load(), pd.DataFrame({"fold": [0]})).trainings()
    assert [training.folder for training in same] == [training.folder for training in trainings]
    assert all(map(store.holds, same))


@pytest.mark.parametrize("name", ["1f-s0.pt", "curve.csv", "finished.json"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-3]), Path.unlink])
def test_a_damaged_training_does_not_count(trainings, name, damage, capsys):
    damage(trainings[0].folder / name)
    assert not store.holds(trainings[0])
    unfinished = name == "finished.json" and damage is Path.unlink
    assert not (trainings[0].folder / store.FINISHED).exists()
    assert ("X3D-M 1f-s0: damaged" in capsys.readouterr().out) != unfinished
    assert store.holds(trainings[1])


def test_a_disk_that_fails_for_a_moment_costs_no_training(trainings, monkeypatch):
    def fails(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with monkeypatch.context() as now, pytest.raises(OSError, match="Stale file handle"):
        now.setattr(store, "sha256", fails)
        store.holds(trainings[0])
    assert store.holds(trainings[0])


def test_contents_tell_size_and_age(trainings):
    (trainings[1].folder / store.FINISHED).unlink()
    table = store.contents()
    assert table["folder"].tolist() == [trainings[number].folder for number in (1, 2, 0)]
    assert table["finished"].tolist() == [False, True, True]
    assert table["GB"].tolist() == pytest.approx([0.001] * 3, rel=0.01)
    assert table["days"].tolist() == pytest.approx([0, 1, 3], abs=0.01)  # a folder whose files change is in use


def test_above_the_limit_the_longest_unused_go_but_none_that_is_needed_or_being_trained(trainings, capsys):
    store.prune(0.0025, [])
    assert left() == ["2f", "3f"]
    assert "over 0.0025 GB, `store` in params.yaml" in capsys.readouterr().out
    store.prune(0.0015, [trainings[1]])
    assert left() == ["2f"]
    with store.lock(trainings[1]):
        store.prune(0, [])
        assert left() == ["2f"]
    store.prune(0, [])
    assert left() == []


def test_a_training_that_another_study_finished_meanwhile_is_logged_in_this_one(trainings, monkeypatch):
    """It was missing when this study began, and was trained while this one waited for the lock."""
    logged = []
    monkeypatch.setattr(fit, "log_finished", logged.append)
    fit.fit(trainings[0], print)
    assert logged == [trainings[0]]


def test_a_training_that_was_removed_meanwhile_says_so(trainings, tmp_path):
    store.clear(trainings[1].folder)
    with pytest.raises(UserError, match="another study has removed 2f-s0 from work/trainings meanwhile: set a larger"):
        collect(trainings[0].study, trainings, tmp_path / "work/x3d_m")


@pytest.mark.parametrize("package", ["torch", "torchvision", "av", "numpy", "pytorch-lightning", "pytorchvideo"])
def test_another_version_of_a_package_is_another_training(trainings, monkeypatch, package):
    before, asked = trainings[0].identity, study.version
    monkeypatch.setattr(study, "version", lambda name: asked(name) + ".1" * (name == package))
    assert replace(trainings[0]).identity != before


def test_a_training_that_is_taken_counts_as_used(trainings):
    assert store.holds(trainings[0])
    assert store.contents()["folder"].iloc[0] == trainings[0].folder
