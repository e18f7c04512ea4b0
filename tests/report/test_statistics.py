from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from benchmarks import coverage
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from framebudget.report.scores import per_class, reliability, scores
from framebudget.report.statistics import (
    accuracy_of,
    comparisons,
    deciding,
    difference_of,
    frames_needed,
    holm,
    intervals,
    summary,
)
from tests.report.test_scores import predictions, study  # noqa: F401, a fixture


def rights(seed: int, S: int, G: int) -> tuple[np.ndarray, np.ndarray]:
    """right_SG and tested_G of groups of unlike size."""
    generator = np.random.default_rng(seed)
    tested_G = generator.integers(2, 9, G)
    return generator.binomial(tested_G, 0.7, (S, G)), tested_G


def test_variances_are_those_of_a_plain_loop():
    right_SG, tested_G = rights(0, 4, 9)
    estimate = accuracy_of(right_SG, tested_G)
    by_seed = [right_G.sum() / tested_G.sum() for right_G in right_SG]
    without = [np.delete(right_SG, g, 1).sum(1).mean() / np.delete(tested_G, g).sum() for g in range(9)]
    assert estimate.value == pytest.approx(np.mean(by_seed))
    assert estimate.of_seeds == pytest.approx(stats.sem(by_seed) ** 2)
    assert estimate.of_groups == pytest.approx(8 / 9 * sum((part - estimate.value) ** 2 for part in without))
    weights = np.array([estimate.of_seeds, estimate.of_groups])
    assert estimate.t(0.025) == pytest.approx(
        np.average([stats.t.isf(0.025, 3), stats.t.isf(0.025, 8)], weights=weights)
    )


def test_with_one_clip_a_group_and_one_seed_it_is_wilsons_interval():
    """scipy's, at the level whose normal quantile is Student's, with N - 1 clips instead of N."""
    right_SG, N = np.array([[1] * 20 + [0] * 10]), 30
    t = stats.t.isf(0.025, N - 1)
    level = 1 - 2 * stats.norm.sf(t * np.sqrt(N / (N - 1)))
    known = stats.binomtest(20, N).proportion_ci(level, "wilson")
    assert accuracy_of(right_SG, np.ones(N, int)).accuracy_interval() == pytest.approx((known.low, known.high))


@pytest.mark.parametrize(("groups", "clips", "low"), [(13, 65, 0.93), (35, 161, 0.98)])
def test_where_all_are_right_only_the_number_of_clips_tells(groups, clips, low):
    tested_G = np.full(groups, clips // groups)
    tested_G[0] += clips - tested_G.sum()
    ends = accuracy_of(np.tile(tested_G, (5, 1)), tested_G).accuracy_interval()
    assert ends == pytest.approx((low, 1), abs=0.0051)
    assert ends[0] == pytest.approx(1 / (1 + stats.t.isf(0.025, groups - 1) ** 2 / clips))


def test_the_same_deviation_over_seeds_widens_the_interval_of_fewer():
    right_SG, tested_G = np.tile([[8], [10], [9]], (1, 20)), np.full(20, 12)
    few, many = accuracy_of(right_SG, tested_G), accuracy_of(np.tile(right_SG, (3, 1)), tested_G)
    assert np.diff(few.accuracy_interval()) > 2 * np.diff(many.accuracy_interval())


def test_between_groups_that_are_all_alike_it_is_welchs_test():
    a_SG, b_SG = (np.repeat(np.array(right)[:, None], 50, 1) for right in ([80, 83, 88], [90, 91, 95, 92]))
    difference = difference_of(a_SG, b_SG, np.full(50, 100))
    known = stats.ttest_ind(b_SG[:, 0] / 100, a_SG[:, 0] / 100, equal_var=False)
    assert difference.df == pytest.approx(known.df)
    assert difference.p == pytest.approx(known.pvalue, rel=1e-3)
    low, high = known.confidence_interval()
    assert [difference.value - difference.margin(), difference.value + difference.margin()] == pytest.approx(
        [low, high], abs=1e-5
    )


def test_with_one_clip_a_group_and_one_seed_it_is_students_paired_test():
    a, b = np.array([0] * 12 + [1] * 18), np.array([1] * 25 + [0] * 5)
    difference = difference_of(a[None], b[None], np.ones(30, int))
    t = stats.t.isf(0.025, 29)
    assert difference.margin() == pytest.approx(t * np.sqrt(stats.sem(b - a) ** 2 + 1 / 30**2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(5, 20))
def test_at_the_level_p_the_interval_just_touches_zero(seed, S, G):
    (a_SG, tested_G), (b_SG, _) = rights(seed, S, G), rights(seed + 1, S, G)
    difference = difference_of(a_SG, np.minimum(b_SG, tested_G), tested_G)
    if 1e-9 < difference.p < 1:
        assert difference.margin(difference.p / 2) == pytest.approx(abs(difference.value))
    assert difference_of(a_SG, a_SG, tested_G).p == 1


def test_a_summary_is_the_mean_over_seeds(predictions):  # noqa: F811
    runs, table = scores(predictions, 2), summary(predictions, 2)
    columns = ["model", "budget", "seeds", "accuracy", "accuracy_std", "low", "high", "interval_of"]
    assert list(table) == [*columns, "top2", "macro_f1", "ece", "ece_chance", "brier", "nll"]
    assert table["seeds"].tolist() == [2] * 4
    for row, (_, pair) in zip(table.itertuples(), runs.groupby(["model", "budget"], sort=False), strict=True):
        for name in ("accuracy", "top2", "macro_f1", "ece"):
            assert getattr(row, name) == pytest.approx(pair[name].mean())
        first, second = pair["accuracy"]
        assert row.accuracy_std == pytest.approx(abs(first - second) / 2**0.5)


def test_models_come_as_they_appear_and_budgets_ascend(predictions):  # noqa: F811
    order = [("slow", 6), ("slow", 16), ("fast", 6), ("fast", 16)]
    for table in summary(predictions, 2), per_class(predictions), reliability(predictions), intervals(predictions):
        assert list(table[["model", "budget"]].drop_duplicates().itertuples(index=False, name=None)) == order
        assert table.index.equals(pd.RangeIndex(len(table)))


def drawn(budgets: dict[int, float], S: int, G: int = 20, C: int = 5, seed: int = 0, model: str = "m") -> pd.DataFrame:
    """Predictions that are right at these rates."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(G), C)
    right = {(model, T, s): generator.random(G * C) < rate for T, rate in budgets.items() for s in range(S)}
    return study(right, groups)


@pytest.mark.parametrize(
    ("seeds", "groups", "of"), [(1, 5, "networks"), (2, 5, ""), (3, 5, "recipe"), (5, 4, ""), (1, 4, ""), (5, 1, "")]
)
def test_an_interval_needs_groups_and_that_of_a_recipe_seeds(seeds, groups, of):
    table = drawn({6: 0.3, 8: 0.9}, seeds, groups, 40)
    assert intervals(table)["interval_of"].tolist() == [of] * 2
    assert intervals(table)[["low", "high"]].notna().eq(bool(of)).all(axis=None)
    row = comparisons(table).iloc[0]
    assert row[["low", "high", "detectable", "at_most"]].notna().eq(bool(of)).all()
    assert pd.notna(row["p"]) == pd.notna(row["p_holm"]) == (row["verdict"] != "none") == (of == "recipe")
    assert row["difference"] > 0.3


def test_pairs_are_budgets_and_the_largest_then_models_at_a_budget(predictions):  # noqa: F811
    table = comparisons(predictions)
    sides = ["of", "model_a", "budget_a", "model_b", "budget_b"]
    assert list(table[sides].itertuples(index=False, name=None)) == [
        ("budget", "slow", 6, "slow", 16),
        ("budget", "fast", 6, "fast", 16),
        ("model", "slow", 6, "fast", 6),
        ("model", "slow", 16, "fast", 16),
    ]
    alone = comparisons(predictions[(predictions["model"] == "slow") & (predictions["budget"] == 6)])
    assert alone.empty
    assert list(alone) == list(table)


def test_models_are_compared_at_the_budgets_they_share():
    runs = [("m", 6, 0), ("m", 8, 0), ("m", 16, 0), ("n", 8, 0), ("n", 6, 0), ("l", 6, 0)]
    table = comparisons(study({run: [1] * 5 for run in runs}, list("abcde")))
    assert list(table[["of", "model_a", "budget_a", "model_b", "budget_b"]].itertuples(index=False, name=None)) == [
        ("budget", "m", 6, "m", 16),
        ("budget", "m", 8, "m", 16),
        ("budget", "n", 6, "n", 8),
        ("model", "m", 6, "n", 6),
        ("model", "m", 6, "l", 6),
        ("model", "n", 6, "l", 6),
        ("model", "m", 8, "n", 8),
    ]


def test_a_comparison_is_the_difference_of_the_summary_and_p_is_corrected():
    table = drawn({6: 0.5, 8: 0.8, 16: 0.9}, 5)
    accuracy, pairs = summary(table, 1).set_index("budget")["accuracy"], comparisons(table)
    for row in pairs.itertuples():
        assert row.difference == pytest.approx(accuracy[row.budget_b] - accuracy[row.budget_a])
        assert row.low < row.difference < row.at_most < row.high
        assert row.detectable > row.high - row.difference
    np.testing.assert_array_equal(pairs["p_holm"], holm(pairs["p"].to_numpy()))
    assert pairs["seeds"].tolist() == [5, 5]


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_clear_difference_is_found_in_either_direction(seeds):
    assert comparisons(drawn({6: 0.4, 8: 0.9}, seeds))["verdict"].tolist() == ["better"]
    assert comparisons(drawn({6: 0.9, 8: 0.4}, seeds))["verdict"].tolist() == ["worse"]
    assert comparisons(drawn({6: 0.7, 8: 0.7}, seeds))["verdict"].tolist() == ["undecided"]


def test_a_difference_that_one_group_or_one_training_makes_is_undecided():
    groups = np.repeat(np.arange(10), 8)
    of_one_group = {("m", T, s): (groups > 0) | (T == 8) for T in (6, 8) for s in range(5)}
    of_one_seed = {("m", T, s): np.full(80, T == 8 or s > 0) for T in (6, 8) for s in range(5)}
    for right in (of_one_group, of_one_seed):
        assert comparisons(study(right, groups))["verdict"].tolist() == ["undecided"]


def test_the_order_of_rows_does_not_matter(predictions):  # noqa: F811
    shuffled = pd.concat(
        [rows.sample(frac=1, random_state=0) for _, rows in predictions.groupby(["model"], sort=False)]
    )
    assert intervals(predictions).equals(intervals(shuffled))
    assert comparisons(predictions).equals(comparisons(shuffled))


def test_missing_and_repeated_clips_are_named():
    table = study({("m", 6, 0): [1] * 6, ("m", 8, 0): [1] * 6}, range(6))
    with pytest.raises(ValueError, match="m at budget 8 with seed 0 lacks test clips"):
        comparisons(table[:-1])
    with pytest.raises(ValueError, match="duplicate"):
        intervals(pd.concat([table, table[:1]]))


def answer(rates: dict[int, float], seeds: int, G: int = 60, unlearned: int | None = None) -> dict:
    rows = [("m", T, unlearned != T) for T in rates]
    learned = pd.DataFrame(rows, columns=["model", "budget", "finished"])
    return frames_needed(drawn(rates, seeds, G, 10), 0.05, learned).iloc[0].to_dict()


def test_the_smallest_budget_that_loses_little_is_what_is_needed():
    found = answer({4: 0.3, 6: 0.9, 8: 0.9, 16: 0.9}, 5)
    assert (found["needed"], found["next"], found["because"]) == (6, 4, "worse")
    found = answer({6: 0.9, 8: 0.9, 16: 0.9}, 5)
    assert (found["needed"], found["because"]) == (6, "") and found["next"] is None
    found = answer({6: 0.9, 8: 0.3, 16: 0.9}, 5)  # 6 frames after 8 have failed are not asked for
    assert (found["needed"], found["next"], found["because"]) == (16, 8, "worse")
    found = answer({6: 0.9}, 5)
    assert found["needed"] is None and found["because"] == ""


def test_what_is_not_decided_is_not_said():
    found = answer({6: 0.85, 8: 0.9, 16: 0.9}, 5)
    assert (found["needed"], found["next"], found["because"]) == (8, 6, "undecided")
    assert found["groups"] >= 60 and found["seeds"] >= 5
    found = answer({6: 0.9, 16: 0.9}, 5, G=6)
    assert found["needed"] is None and found["because"] == "undecided"
    assert answer({6: 0.9, 16: 0.9}, 1)["because"] == "trainings"
    assert answer({6: 0.9, 16: 0.9}, 2)["because"] == "trainings"
    assert answer({6: 0.3, 16: 0.9}, 5, unlearned=6)["because"] == "unlearned"
    found = answer({6: 0.3, 8: 0.9, 16: 0.9}, 5, unlearned=6)
    assert (found["needed"], found["because"]) == (8, "unlearned")
    found = answer({6: 0.9, 16: 0.9}, 5, unlearned=16)
    assert found["needed"] is None and found["because"] == "unlearned"


def test_the_groups_that_would_decide_are_the_fewest():
    (a_SG, tested_G), (b_SG, _) = rights(0, 3, 13), rights(2, 3, 13)
    difference = difference_of(a_SG, np.minimum(b_SG, tested_G), tested_G)
    G, S = deciding(difference, 3, 0.1)
    for groups, enough in ((G, True), (G - 1, False)):
        more = difference.with_more(groups / 13, S / 3)
        assert ((more.t(0.05) + 0.84) * more.error <= 0.1) == enough
    assert np.isnan(deciding(difference, 3, 1e-4)).all()


def test_more_groups_and_seeds_are_what_a_larger_study_of_the_same_gives():
    (a_SG, tested_G), (b_SG, _) = rights(0, 4, 30), rights(2, 4, 30)
    b_SG = np.minimum(b_SG, tested_G)
    guess = difference_of(a_SG, b_SG, tested_G).with_more(3, 1)
    found = difference_of(np.tile(a_SG, (1, 3)), np.tile(b_SG, (1, 3)), np.tile(tested_G, 3))
    assert guess.groups == found.groups and guess.clips == found.clips
    assert guess.error == pytest.approx(found.error, rel=0.03)


@pytest.mark.parametrize("name", ["motion 0.7 ± 0.11, weak", "weizmann 0.87 ± 0.05, strong"])
def test_intervals_and_verdicts_hold_as_often_as_they_say(name):
    """benchmarks/coverage.py has more settings and studies. Version 0.1's fail here."""
    (setting,) = [setting for setting in coverage.SETTINGS if setting.name == name]
    shares = coverage.measured(setting, 3, 300)
    assert shares["coverage"] > 0.93 and shares["of_difference"] > 0.93
    assert shares["size"] < 0.06 and shares["margin"] < 0.06
    assert shares["coverage_0_1"] < 0.85 and shares["size_0_1"] > 0.1


@pytest.mark.parametrize(("accuracy", "deviation"), [(0.7, 0.11), (0.95, 0.02)])
def test_drawn_studies_have_the_accuracy_and_the_deviation_that_were_asked_for(accuracy, deviation):
    setting = coverage.Setting("many", 400, 1, accuracy, deviation, coverage.WEAK)
    generator = np.random.default_rng(0)
    found_S = np.array([coverage.study(setting, 1, (accuracy,), generator).mean() for _ in range(1500)])
    noise = np.sqrt(accuracy * (1 - accuracy) / 400)
    assert found_S.mean() == pytest.approx(accuracy, abs=4 * deviation / 1500**0.5)
    assert found_S.std() == pytest.approx(np.hypot(deviation, noise), rel=0.1)


def test_holm_by_hand():
    """As R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert len(holm(np.array([]))) == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p):
    """Holm's own wording: reject the smallest p while p <= alpha / (hypotheses left)."""
    corrected = holm(np.array(p))
    for alpha in (0.01, 0.05, 0.3):
        rejected, left = set(), len(p)
        for i in sorted(range(len(p)), key=p.__getitem__):
            if p[i] * left > alpha:
                break
            rejected.add(i)
            left -= 1
        assert rejected == set(np.flatnonzero(corrected <= alpha))
    assert all((corrected[i] <= corrected[j]) for i, j in combinations(np.argsort(p), 2))
