"""What a study consists of, and how its tables are kept."""

import json
import shutil

import pandas as pd
import pytest

from framebudget import params, study, train
from framebudget.console import UserError
from framebudget.study import Study
from tests.conftest import ROOT, set_params

CLIPS = pd.DataFrame({
    "clip": ["a", "b", "c"], "class": ["y", "x", "y"], "sha256": ["1", "2", "3"], "fold": 0,
    "subset": ["train", "validation", "test"],
})  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/split.csv").write_text("clip")
    (tmp_path / "work/weights.json").write_text(json.dumps({"x3d_m": None, "slowfast_r50": "ab"}))
    return tmp_path


def names(trainings):
    return [f"{training.network} {training.name}" for training in trainings]


def test_a_study_has_a_training_for_every_network_budget_seed_and_fold(here):
    set_params(here, frames=[2, 4], seeds=[0, 1])
    found = Study(params.load(), CLIPS)
    assert names(found.trainings("x3d_m")) == ["x3d_m 2f-s0", "x3d_m 2f-s1", "x3d_m 4f-s0", "x3d_m 4f-s1"]
    assert len(found.trainings()) == 8
    assert found.classes == ["x", "y"]
    set_params(here, models="x3d_m", frames=2, seeds=0)
    folds = pd.concat([CLIPS, CLIPS.assign(fold=1, subset=["test", "train", "validation"])])
    found = Study(params.load(), folds)
    assert names(found.trainings()) == ["x3d_m 2f-s0-k0", "x3d_m 2f-s0-k1"]
    assert not found.trainings("slowfast_r50")
    assert [training.clips("test")["clip"].item() for training in found.trainings()] == ["c", "a"]
    assert found.tested_on("a", "x3d_m", 2, 0).fold == 1


def test_a_published_budget_is_the_window_of_sixteen_frames(here):
    set_params(here, protocol="published", frames=[2])
    (training,) = Study(params.load(), CLIPS).trainings("slowfast_r50")
    assert (training.budget, training.T, training.input.window, training.input.crop) == (2, 16, 2.0, 48)


def test_what_shapes_a_training_is_its_identity_and_nothing_else(here):
    def identity(network="x3d_m", **changes):
        set_params(here, **changes)
        return Study(params.load(), CLIPS).trainings(network)[0].identity

    first = identity()
    assert identity(workers=3, launcher="srun", side_by_side=3, per_gpu=1, store=1, models=["x3d_m"], seeds=[0, 1],
                    clips="elsewhere",
                    **{"trainer.timeout": 1, "datasets.motion.evaluate.views": 9}) == first  # fmt: skip
    assert identity(**{"datasets.motion.slowfast_r50.lr": 1.0, "train.lr": 1.0}) == first  # overridden, or another's
    for change in ({"train.label_smoothing": 0.1}, {"trainer.precision": "bf16-mixed"}, {"protocol": "published"}):
        assert first != (first := identity(**change))
    (here / "work/split.csv").write_text("other")
    assert identity() != first


def test_weights_that_fetch_has_not_seen_are_an_error(here):
    training = Study(params.load(), CLIPS).trainings("slowfast_r50")[0]
    assert training.weights_sha256 == "ab"
    (here / "work/weights.json").write_text("{}")
    with pytest.raises(UserError, match=r"work/weights.json: not written by fetch"):
        _ = Study(params.load(), CLIPS).trainings("slowfast_r50")[0].weights_sha256


def test_trained_weights_are_found_by_their_names(here):
    for name in ("16f-s0", "6f-s1", "6f-s0", "6f-s0-k2", "best", "6f"):
        (here / f"{name}.pt").touch()
    found = study.trained(here)
    assert list(found) == [(6, 0, 0), (6, 0, 2), (6, 1, 0), (16, 0, 0)]
    assert found[6, 1, 0].name == "6f-s1.pt"


@pytest.mark.parametrize("unit", ["frames", "seconds"])
def test_budgets_have_their_unit_on_disk(here, unit):
    table = pd.DataFrame({"of": ["budget", "model"], "budget_a": [1, 2], "budget_b": [2, 2], "budget": 1})
    study.write_table(table, here / "table.csv", unit)
    kept = pd.read_csv(here / "table.csv")
    assert kept.columns.tolist() == ["of", f"{unit}_a", f"{unit}_b", unit]
    assert kept["of"].tolist() == [unit, "model"]
    pd.testing.assert_frame_equal(study.read_table(here / "table.csv"), table, check_dtype=False)


def test_predictions_without_a_budget_are_an_error(here):
    columns = {"seed": [0], "clip": ["a"], "group": ["01"], "label": ["x"], "prediction": ["NA"]}
    pd.DataFrame(columns).to_csv(here / "predictions.csv", index=False)
    with pytest.raises(UserError, match="no column 'frames' or 'seconds'; make it again"):
        study.read_predictions(here / "predictions.csv")
    pd.DataFrame({"frames": [6]} | columns).to_csv(here / "predictions.csv", index=False)
    (row,) = study.read_predictions(here / "predictions.csv").to_dict("records")
    assert row == {"budget": 6} | {name: value for name, (value,) in columns.items()}


def test_clips_that_are_too_short_are_counted_and_named_before_anything_is_trained(here, capsys):
    set_params(here, models="x3d_m", frames=[4, 12], **{"datasets.motion.input.window": None})
    clips = CLIPS.assign(path=["y/a.avi", "x/b.avi", "y/c.avi"], frames=[10, 20, 11], fps=25.0)
    short, long = Study(params.load(), clips).trainings()
    train.tell_of_short(short)
    assert capsys.readouterr().out == ""
    train.tell_of_short(long)
    said = "2 of 3 clips have fewer frames than the budget of 12 frames needs"
    assert capsys.readouterr().out == f"{said}: input.short is repeat_last\n"
    set_params(here, **{"datasets.motion.input.short": "error"})
    _, long = Study(params.load(), clips).trainings()
    with pytest.raises(UserError, match=f"{said}: y/a.avi, y/c.avi; lower `frames`"):
        train.tell_of_short(long)
