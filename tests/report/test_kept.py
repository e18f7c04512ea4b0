"""What the kept studies say, and whether a study replicates one of them."""

import numpy as np
import pandas as pd
import pytest

from framebudget import paper, params
from framebudget.report import control_plots, kept, overview
from tests.conftest import ROOT, set_params


def rows(because: str, needed: int | None, losses: dict[int, float], seeds: int = 5) -> pd.DataFrame:
    """A study of X3D-M whose budgets lose so much against 16 frames."""
    table = pd.DataFrame({"budget": [*losses, 16], "loss": [*losses.values(), np.nan]})
    table["accuracy"] = 0.91 - table["loss"].fillna(0)
    table["needed"] = table["budget"] == (needed or 0)
    table["finished"] = (because != "unlearned") | (table["budget"] > 4)
    table = table.assign(loss_low=table["loss"] - 0.01, loss_high=table["loss"] + 0.03, at_most=table["loss"] + 0.02)
    facts = {"clips": "Weizmann", "network": "X3D-M", "start": "x3d.pyth", "seeds": seeds, "because": because}
    facts["window"] = 1.5
    return table.assign(**facts)


@pytest.mark.parametrize(
    ("study", "says"),
    [
        (
            rows("", 4, {4: 0.01, 8: -0.001}),
            "On Weizmann, 4 frames spread over up to 1.5 s are enough for X3D-M. With 4 instead of 16, it loses 1.0 "
            "points of accuracy, and at most 3.0 by a one-sided 95% bound.",
        ),
        (
            rows("worse", 8, {4: 0.2, 8: -0.03}, seeds=3),
            "On Weizmann, 8 frames spread over up to 1.5 s are enough for X3D-M. With 8 instead of 16, its accuracy "
            "is 3.0 points higher, and at most 0.0 points lower by a one-sided 95% bound. This verdict is weak: it "
            "rests on 3 seeds. With 4 instead of 16, it loses 20.0 points of accuracy (95% interval 19.0 to 23.0).",
        ),
        (
            rows("worse", 16, {4: 0.3, 8: 0.2}).assign(start=""),
            "On Weizmann, X3D-M (from scratch) needs all 16 frames, spread over up to 1.5 s. With 8 instead of 16, it "
            "loses 20.0 points of accuracy (95% interval 19.0 to 23.0).",
        ),
        (
            rows("undecided", 4, {1: 0.02, 4: 0.01}).assign(window=np.nan),
            "On Weizmann, 4 frames spread over the whole clip are enough for X3D-M. With 4 instead of 16, it loses 1.0 "
            "points of accuracy, and at most 3.0 by a one-sided 95% bound. Whether 1 is enough is not settled: with "
            "1, it loses 2.0 points of accuracy (95% interval 1.0 to 5.0).",
        ),
        (
            rows("", 1, {1: 0.0}),
            "On Weizmann, a single frame is enough for X3D-M. With 1 instead of 16, its accuracy is the same, and at "
            "most 2.0 points lower by a one-sided 95% bound.",
        ),
        (
            rows("undecided", None, {8: 0.0}),
            "On Weizmann, our data do not settle how many frames X3D-M needs. With 8 instead of 16, its accuracy is "
            "the same (95% interval of the loss −1.0 to 3.0).",
        ),
        (
            rows("unlearned", 8, {4: 0.2, 8: 0.01}),
            "On Weizmann, 8 frames spread over up to 1.5 s are enough for X3D-M. With 8 instead of 16, it loses 1.0 "
            "points of accuracy, and at most 3.0 by a one-sided 95% bound. Whether 4 are enough is not settled: with "
            "4, it loses 20.0 points of accuracy (95% interval 19.0 to 23.0). With 4 frames, at least one training has "
            "not finished learning.",
        ),
        (
            rows("trainings", None, {8: 0.01}, seeds=1),
            "On Weizmann, X3D-M reaches 90.0% with 8, 91.0% with 16 frames. How many it needs is not "
            "known: one seed cannot show how much trainings vary.",
        ),
        (
            rows("trainings", None, {8: 0.01}, seeds=3),
            "On Weizmann, X3D-M reaches 90.0% with 8, 91.0% with 16 frames. How many it needs is not "
            "known: there are too few groups for an interval.",
        ),
    ],
)
def test_a_study_answers_in_one_sentence(study, says):
    assert kept.sentence(study) == says


def test_a_study_agrees_with_a_kept_one_within_the_spread_of_its_seeds():
    answers = pd.DataFrame(
        {
            "study": "motion",
            "recipe": "abc",
            "model": "x3d_m",
            "budget": [6, 8, 16],
            "seeds": 5,
            "trained_seeds": "0 1 2 3 4",
        }
    )
    answers = answers.assign(accuracy=[0.8, 0.9, 1.0], accuracy_std=[0.05, 0.01, 0.0], tested=100)
    results = pd.DataFrame({"model": "x3d_m", "budget": [6, 8, 16], "seeds": 1, "accuracy": [0.66, 0.84, 0.99]})
    table = kept.replication(answers, results, {"x3d_m": "abc"})
    margin = 3.961 * 0.05 * np.sqrt(1 + 1 / 5)  # Student's t with 4 degrees of freedom, 0.05 / 6 above it
    assert table["expected_low"].tolist() == pytest.approx([0.8 - margin, 0.9 - margin / 5, 0.99], abs=1e-4)
    assert table["agrees"].tolist() == [True, False, True]
    (line,) = paper.agreement(table)
    within = "are within the 95% prediction intervals of reports/motion (5 seeds)"
    assert line == f"All 3 accuracies but X3D-M at 8 (85.7% to 94.3%) {within}"
    assert [*paper.agreement(table[table["agrees"]])] == [f"All 2 accuracies {within}"]
    other = kept.replication(answers, results, {"x3d_m": "def"})
    assert other.empty and not [*paper.agreement(other)]


def test_a_recipe_is_what_was_trained_and_not_where(tmp_path):
    def digest(**changes):
        (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        set_params(tmp_path, **changes)
        return kept.recipe(params.load(tmp_path / "params.yaml"), "x3d_m", "0" * 64)

    same = {"seeds": [3, 4], "frames": [6], "workers": 0, "side_by_side": 1, "models": ["x3d_m"], "trainer.devices": 2}
    assert digest(**same) == digest()
    for change in ({"protocol": "published"}, {"train.lr": 0.5, "datasets.motion.x3d_m.lr": None}):
        assert digest(**change) != digest()


def test_the_figure_of_all_studies(legible):
    legible(overview.answers(kept.read()), 7.0)


@pytest.mark.parametrize("study", ["all", "ucf101"])
def test_the_figure_of_their_controls(legible, study):
    answers = kept.read()
    legible(control_plots.of_kept(answers if study == "all" else answers[answers["study"] == study]), 3.4)
