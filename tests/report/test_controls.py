"""Controls: the same networks tested otherwise, and what sampling allows on motion."""

import numpy as np
import pandas as pd
import pytest

from framebudget import params
from framebudget.report import control_plots, controls, statistics
from framebudget.sources.motion import ACTIONS, OPPOSITE, PERIODS
from tests.conftest import ROOT

GROUPS, SEEDS = [f"g{number:02d}" for number in range(1, 61)], range(3)


def said(share: float, actions: tuple[str, ...] = ACTIONS) -> pd.DataFrame:
    """Trainings at 6 and 16 frames that are right everywhere as recorded, and in the first groups otherwise."""
    keys = [
        ("x3d_m", budget, seed, action + group, group, action)
        for budget in (6, 16) for seed in SEEDS for group in GROUPS for action in actions
    ]  # fmt: skip
    table = pd.DataFrame(keys, columns=["model", "budget", "seed", "clip", "group", "label"])
    right = table["group"].isin(GROUPS[: round(share * len(GROUPS))])
    other = table["label"].map({**OPPOSITE, "Sway": "Approach"})
    own = table["label"].where(right, other)
    for budget in (6, 16):
        table[f"at_{budget}"] = table["label"].where(table["budget"] == budget, own)
    return table.assign(reversed=other, shuffled=own, still=own)


def test_an_order_is_compared_with_the_same_networks_and_a_budget_with_those_trained_there():
    table = controls.summary(said(0.5)).set_index(["budget", "test"])
    assert table["accuracy"].to_dict() == {
        (budget, test): {f"at_{budget}": 1, "reversed": 0}.get(test, 0.5)
        for budget in (6, 16) for test in ("at_6", "at_16", "reversed", "shuffled", "still")
    }  # fmt: skip
    assert pd.isna(table.loc[(16, "at_16"), "difference"])
    assert table.loc[(16, "at_6"), "difference"] == -0.5  # from the networks trained at 6
    assert table.loc[(16, "reversed"), ["low", "difference", "high"]].tolist() == pytest.approx([-1, -1, -1], abs=0.05)
    low, difference, high = table.loc[(16, "shuffled"), ["low", "difference", "high"]]
    assert low < difference == -0.5 < high < 0


def test_a_difference_within_networks_is_that_of_each_seed():
    right_SG, tested_G = np.array([[3, 1, 2, 4], [1, 0, 2, 2]]), np.array([5, 5, 5, 5])
    change = statistics.change_of(right_SG, right_SG + 1, tested_G)
    assert (change.value, change.of_seeds, change.of_groups) == pytest.approx((0.2, 0, 0))


@pytest.mark.parametrize(("T", "line"), [(2, None), (4, 0.76), (6, 0.873), (8, 1), (16, 1)])
def test_the_aliasing_line(T, line):
    """By hand, with periods uniform from 11 to 40 frames: a direction shows if a step is less than half of the period.
    At 4 frames, it also shows for periods from 13 to 19.3: the motion looks too slow to go the way that it seems to."""
    spec = params.load(ROOT / "params.yaml").data.input
    step = controls.spacing(spec, T)
    assert step == pytest.approx(39 / (T - 1))
    if line:
        periods = np.linspace(*PERIODS, 100_000)
        tells = controls.direction_tells(periods, step)
        assert np.where(tells, 1, 1 / 5).mean() == pytest.approx(line, abs=0.005)


def test_networks_are_placed_by_their_interval():
    spec = params.load(ROOT / "params.yaml").data.input
    own = said(1)
    table = controls.motion(own, spec)
    assert table["swapped"].tolist() == [1, 1]
    assert table["place"].tolist() == ["above", "at"]
    assert controls.motion(own.assign(at_16="Sway"), spec)["place"].tolist() == ["above", "below"]


def test_the_plot_of_controls(legible):
    legible(control_plots.controls(controls.summary(said(0.5)), "frames"), 3.4)


def test_the_plot_of_what_sampling_allows(legible):
    spec, own = params.load(ROOT / "params.yaml").data.input, said(0.5)
    bins = controls.by_frames_per_period(own.assign(prediction=own["shuffled"]), spec)
    assert bins["frames_per_period"].between(11 / 7.8, 40 / 2.6).all()
    legible(control_plots.sampling_limits(bins, spec), 3.4)
