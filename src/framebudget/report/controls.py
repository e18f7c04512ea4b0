"""Controls that explain an accuracy: the same networks at other budgets, with the frames in another order, and, on
motion, against what sampling allows.

The table of controls has one row per test clip and training: model, budget, seed, clip, group, label, and what the
network predicts at each budget of the study (`at_6`, …), and with the frames `reversed`, `shuffled` or `still`.
"""

import numpy as np
import pandas as pd

from framebudget.params import Input
from framebudget.report.scores import CONFIGURATION, each
from framebudget.report.statistics import (
    Estimate,
    accuracy_of,
    change_of,
    difference_of,
    interval_of,
    rights_of,
)
from framebudget.sources.motion import ACTIONS, FPS, FRAMES, OPPOSITE, PERIODS, period
from framebudget.video import sampling

KEYS = 6  # columns before the predictions
BIN = 11  # groups per mark in the plot against frames per period, or up to twice as many
SWAY = 1 / len(ACTIONS)  # accuracy of an observer who takes every motion for its opposite: sway has none


def summary(controls: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration and test (`at_6`, `reversed`, …): accuracy, a mean over seeds, and how it differs.

    difference      of `at_6`: from the networks trained at 6 frames, tested there; of an order: from the same networks
                    with the frames in the recorded order
    low, high       its 95% interval; interval_of says what it covers, as in `statistics.intervals`
    """
    tests = controls.columns[KEYS:]
    rights, tested_G = {}, None
    for test in tests:
        rights[test], tested_G = rights_of(controls.assign(prediction=controls[test]))
    rows = []
    for model, budget in rights[tests[0]]:
        own_SG = rights[f"at_{budget}"][model, budget]
        for test in tests:
            found_SG, at = rights[test][model, budget], test.removeprefix("at_")
            if test == at:
                change = change_of(own_SG, found_SG, tested_G)
            elif int(at) == budget:
                change = None
            else:
                change = difference_of(rights[test][model, int(at)], found_SG, tested_G)
            bounds = _bounds(change, len(own_SG)) if change else (np.nan, np.nan, "")
            value = change.value if change else np.nan
            rows.append((model, budget, test, accuracy_of(found_SG, tested_G).value, value, *bounds))
    columns = ["model", "budget", "test", "accuracy", "difference", "low", "high", "interval_of"]
    return pd.DataFrame(rows, columns=columns)


def _bounds(estimate: Estimate, seeds: int) -> tuple[float, float, str]:
    of = interval_of(seeds, estimate.groups)
    margin = estimate.margin() if of else np.nan
    return estimate.value - margin, estimate.value + margin, of


def motion(controls: pd.DataFrame, spec: Input) -> pd.DataFrame:
    """What sampling allows on motion: one row per configuration.

    spacing         frames of the clip from one frame of a view to the next
    accuracy        test accuracy
    aliasing_line   accuracy, on the same clips, of an observer who recognizes every kind of motion, knows the range of
                    periods, and takes the likelier direction
    difference, low, high   accuracy minus that line, and its 95% interval
    place           below or above the line if that interval excludes 0; else at; "" without an interval
    swapped         share of clips of the directed actions that are taken for the opposite one if reversed
    """
    own = pd.concat(rows.assign(prediction=rows[f"at_{of['budget']}"]) for of, rows in each(controls, CONFIGURATION))
    rights, tested_G = rights_of(own)
    periods_G = np.array([period(group) for group in sorted(set(controls["group"]))])
    rows = []
    for (model, T), right_SG in rights.items():
        step = spacing(spec, T)
        line_G = tested_G * (np.where(direction_tells(periods_G, step), 1, SWAY) if step else SWAY)
        change = change_of(np.broadcast_to(line_G, right_SG.shape), right_SG, tested_G)
        low, high, _ = _bounds(change, len(right_SG))
        place = "" if np.isnan(low) else "below" if high < 0 else "above" if low > 0 else "at"
        accuracy = accuracy_of(right_SG, tested_G).value
        rows.append((model, T, step, accuracy, accuracy - change.value, change.value, low, high, place))
    columns = ["spacing", "accuracy", "aliasing_line", "difference", "low", "high", "place"]
    table = pd.DataFrame(rows, columns=[*CONFIGURATION, *columns])
    opposite = controls["label"].map(OPPOSITE)
    directed = controls[opposite.notna()].assign(swapped=controls["reversed"] == opposite)
    return table.merge(directed.groupby(CONFIGURATION, sort=False)["swapped"].mean().reset_index(), how="left")


def spacing(spec: Input, T: int) -> float:
    """Frames of a clip of motion from one frame of a view to the next, on average; 0 if there is only one."""
    return (sampling.span(spec, FRAMES, FPS, T) - 1) / (T - 1) if T > 1 else 0.0


def direction_tells(period_G: np.ndarray, step: float) -> np.ndarray:
    """Whether the true direction is the likelier one, from frames `step` apart, if periods are uniform over PERIODS.

    In a step, a motion turns by step / period cycles. Only the fraction shows: k + phase cycles one way look like
    k + 1 - phase cycles the other way.
    """
    shortest, longest = PERIODS

    def likelihood(cycles_KG: np.ndarray) -> np.ndarray:
        possible = (cycles_KG >= step / longest) & (cycles_KG <= step / shortest)
        return np.divide(1, cycles_KG**2, out=np.zeros_like(cycles_KG), where=possible).sum(0)

    phase_G, whole_K1 = step / period_G % 1, np.arange(np.ceil(step / shortest) + 1)[:, None]
    return likelihood(whole_K1 + phase_G) >= likelihood(whole_K1 + 1 - phase_G)


def by_frames_per_period(predictions: pd.DataFrame, spec: Input) -> pd.DataFrame:
    """On motion: accuracy of every configuration in bins of groups of similar period, and the mean number of frames per
    period in each bin. No bin has both groups where the true direction is the likelier one and others."""
    rows = []
    for configuration, clips in each(predictions, CONFIGURATION):
        right = (clips["label"] == clips["prediction"]).groupby(clips["group"]).mean()
        periods = pd.Series({group: period(group) for group in right.index}).sort_values()
        step = spacing(spec, configuration["budget"])
        if not step:
            continue
        changes = np.flatnonzero(np.diff(direction_tells(periods.to_numpy(), step))) + 1
        for alike in np.split(periods.index, changes):
            for groups in np.array_split(alike, max(1, len(alike) // BIN)):
                mean = {"frames_per_period": periods[groups].mean() / step, "accuracy": right[groups].mean()}
                rows.append(configuration | mean)
    return pd.DataFrame(rows, columns=[*CONFIGURATION, "frames_per_period", "accuracy"])
