from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from framebudget.report import statistics
from framebudget.report.statistics import comparisons, holm, intervals, per_class, reliability, scores, summary

CLASSES = ["a", "b_%", "p_c", "d=é"]
P = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def predictions() -> pd.DataFrame:
    """Two models, two budgets, two seeds, 60 clips in 12 groups of unequal size; the last class is never predicted."""
    generator = np.random.default_rng(0)
    labels, groups = generator.choice(CLASSES, 60), generator.choice([f"g{i:02d}" for i in range(12)], 60)
    runs = []
    for model in ("slow", "fast"):  # not in the order of the alphabet
        for frames in (16, 6):
            for seed in (0, 1):
                p_NK = generator.dirichlet(np.ones(4), 60)
                p_NK[:, 3] = p_NK[:, :3].max(1) * generator.random(60)
                p_NK /= p_NK.sum(1, keepdims=True)
                run = pd.DataFrame({"model": model, "budget": frames, "seed": seed, "clip": range(60), "group": groups})
                run = run.assign(label=labels, prediction=np.array(CLASSES)[p_NK.argmax(1)])
                runs.append(run.join(pd.DataFrame(p_NK, columns=P)))
    return pd.concat(runs)  # with an index that repeats, as evaluate has it


def study(rights: dict, groups: list[str]) -> pd.DataFrame:
    """rights: {(model, frames, seed): is each clip right}; groups: of the clips."""
    runs = []
    for (model, frames, seed), right in rights.items():
        run = pd.DataFrame(
            {"model": model, "budget": frames, "seed": seed, "clip": range(len(groups)), "group": groups}
        )
        runs.append(run.assign(label="x", prediction=np.where(right, "x", "y"), p_x=0.5, p_y=0.5))
    return pd.concat(runs, ignore_index=True)


def test_classes_are_what_follows_the_first_p(predictions):
    assert statistics.classes_of(predictions) == CLASSES


def test_models_come_as_they_appear_and_budgets_ascend(predictions):
    order = [("slow", 6), ("slow", 16), ("fast", 6), ("fast", 16)]
    runs = [(*it, seed) for it in order for seed in (0, 1)]
    assert list(scores(predictions, 2)[statistics.TRAINING].itertuples(index=False, name=None)) == runs
    for table in (
        summary(predictions, 2),
        per_class(predictions),
        reliability(predictions),
        intervals(predictions),
    ):
        assert list(table[["model", "budget"]].drop_duplicates().itertuples(index=False, name=None)) == order
        assert table.index.equals(pd.RangeIndex(len(table)))


def test_scores_are_scikit_learns(predictions):
    table = scores(predictions, 2).set_index(statistics.TRAINING)
    for run, rows in predictions.groupby(statistics.TRAINING, sort=False):
        truth, guess = rows["label"], rows["prediction"]
        row = table.loc[run]
        assert row["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
        best = metrics.top_k_accuracy_score([CLASSES.index(name) for name in truth], rows[P], k=2, labels=range(4))
        assert row["top2"] == pytest.approx(best)
        assert row["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro", zero_division=0))
        assert row["accuracy"] < row["top2"] < 1
    assert scores(predictions, 1).set_index(statistics.TRAINING)["top1"].equals(table["accuracy"].rename("top1"))
    assert (scores(predictions, 9)["top9"] == 1).all()


def test_macro_f1_leaves_out_classes_without_test_clips():
    table = study({("m", 8, 0): [1, 1, 1, 1, 0]}, list("abcde"))  # precision 1, recall 4/5
    assert scores(table, 1)["macro_f1"].tolist() == pytest.approx([8 / 9])


def test_among_equal_probabilities_the_first_classes_are_the_likeliest():
    """However NumPy sorts on this machine; so also where there are more than it sorts by insertion."""
    names, generator = [f"c{k:02d}" for k in range(100)], np.random.default_rng(0)
    p_NK = generator.integers(1, 4, (60, 100)) / 100
    labels = generator.integers(100, size=60)
    right = [label in sorted(range(100), key=lambda k, p=p: -p[k])[:20] for label, p in zip(labels, p_NK, strict=True)]
    table = study({("m", 8, 0): [1] * 60}, list(range(60))).drop(columns=["p_x", "p_y"]).assign(prediction="c00")
    table = table.assign(label=np.array(names)[labels]).join(
        pd.DataFrame(p_NK, columns=[f"p_{name}" for name in names])
    )
    assert scores(table, 20)["top20"].tolist() == pytest.approx([np.mean(right)])


def test_a_label_without_a_column_is_named(predictions):
    with pytest.raises(KeyError, match="'c'"):
        scores(predictions.drop(columns="p_p_c").assign(label="c"), 2)
    with pytest.raises(KeyError, match="'p_c'"):  # of some clips alone
        scores(predictions.drop(columns="p_p_c"), 2)
    with pytest.raises(KeyError, match="'q'"):  # the first of several
        scores(study({("m", 8, 0): [1] * 3}, list("abc")).assign(label=["x", "q", "r"]), 1)


def test_a_summary_is_the_mean_over_seeds(predictions):
    runs, table = scores(predictions, 2), summary(predictions, 2)
    columns = ["model", "budget", "seeds", "accuracy", "accuracy_std", "low", "high", "top2", "macro_f1", "ece"]
    assert list(table) == columns
    assert table["seeds"].tolist() == [2] * 4
    assert table[["low", "high"]].equals(intervals(predictions)[["low", "high"]])
    for row, (_, pair) in zip(table.itertuples(), runs.groupby(["model", "budget"], sort=False), strict=True):
        for name in ("accuracy", "top2", "macro_f1", "ece"):
            assert getattr(row, name) == pytest.approx(pair[name].mean())
        first, second = pair["accuracy"]
        assert row.accuracy_std == pytest.approx(abs(first - second) / 2**0.5)


def test_of_one_seed_only_the_deviation_is_missing(predictions):
    table = summary(predictions[predictions["seed"] == 1], 2)
    assert table.columns[table.isna().any()].tolist() == ["accuracy_std"]


def test_classes_are_scored_as_scikit_learn_does(predictions):
    table = per_class(predictions).set_index(["model", "budget", "class"]).sort_index()
    assert not table.isna().any(axis=None)
    for (model, frames), rows in predictions.groupby(["model", "budget"], sort=False):
        runs = [(run["label"], run["prediction"]) for _, run in rows.groupby("seed")]
        part = table.loc[model, frames].loc[CLASSES]
        assert part["clips"].tolist() == [(runs[0][0] == name).sum() for name in CLASSES]
        for score in ("precision", "recall", "f1"):
            of = getattr(metrics, f"{score}_score")
            means = np.mean([of(*run, labels=CLASSES, average=None, zero_division=0) for run in runs], axis=0)
            np.testing.assert_allclose(part[score], means)
    assert (table.xs("d=é", level="class")[["precision", "recall", "f1"]] == 0).all(axis=None)


def sure(confidence: list[float], right: list[bool]) -> pd.DataFrame:
    """Predictions of x with these probabilities."""
    table = study({("m", 8, 0): [True] * len(right)}, [f"g{i}" for i in range(len(right))])
    return table.assign(label=np.where(right, "x", "y"), p_x=confidence, p_y=1 - np.array(confidence))


def test_reliability_and_its_error_by_hand():
    clips = sure([0.55, 0.6, 0.61, 0.7, 0.95, 0.99, 1.0], [True, False, True, True, True, False, True])
    table = reliability(clips)
    assert list(table) == ["model", "budget", "lower", "upper", "clips", "confidence", "accuracy"]
    assert table["lower"].tolist() == [0.5, 0.6, 0.9]  # 0.6 and 0.7 are the upper ends of their bins
    assert table["upper"].tolist() == [0.6, 0.7, 1.0]
    assert table["clips"].tolist() == [2, 2, 3]
    assert table["confidence"].tolist() == pytest.approx([0.575, 0.655, 0.98])
    assert table["accuracy"].tolist() == pytest.approx([1 / 2, 1, 2 / 3])
    assert statistics.ece(clips) == pytest.approx((2 * 0.075 + 2 * 0.345 + (2.94 - 2)) / 7)
    assert statistics.ece(clips, bins=1) == pytest.approx((5.4 - 5) / 7)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 15))
def test_bins_hold_every_clip_once(clips, bins):
    table = sure(*map(list, zip(*clips, strict=True)))
    parts = reliability(table, bins)
    assert parts["clips"].sum() == len(clips)
    right = sum(right for _, right in clips)
    assert (parts["accuracy"] * parts["clips"]).sum() == pytest.approx(right)
    assert (parts["lower"] <= parts["confidence"] + 1e-9).all() and (parts["confidence"] <= parts["upper"] + 1e-9).all()
    gap = abs(np.mean([p - right for p, right in clips]))
    assert gap - 1e-9 <= statistics.ece(table, bins) <= 1
    assert statistics.ece(table, 1) == pytest.approx(gap)


def test_intervals_are_those_of_a_plain_loop(predictions):
    """Groups are drawn one by one, their clips copied, and every configuration scored by pandas."""
    table = intervals(predictions, draws=2000).set_index(["model", "budget"])
    clips = predictions.assign(right=predictions["label"] == predictions["prediction"])
    for (model, frames), rows in clips.groupby(["model", "budget"], sort=False):
        of_group = [group["right"].to_numpy() for _, group in rows.groupby("group")]
        generator = np.random.default_rng(1)
        drawn = []
        for _ in range(2000):
            drawn.append(np.concatenate([of_group[g] for g in generator.integers(len(of_group), size=12)]).mean())
        row = table.loc[model, frames]
        assert row["accuracy"] == pytest.approx(rows.groupby("seed")["right"].mean().mean())
        assert row[["low", "high"]].tolist() == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)
        assert row["low"] < row["accuracy"] < row["high"]


def test_these_very_intervals_follow_from_ten_thousand_draws(predictions):
    """What the paper prints must not depend on who draws."""
    row, pair = intervals(predictions).iloc[0], comparisons(predictions).iloc[0]
    assert [row["low"], row["high"]] == pytest.approx([0.13414634146341464, 0.27174389778794805], abs=1e-12)
    assert [pair["low"], pair["high"], pair["p_bootstrap"]] == pytest.approx(
        [-0.05660377358490565, 0.14035773026315781, 0.36136386361363865], abs=1e-12
    )


def test_all_possible_draws_of_five_groups():
    """5^5 draws, each as likely as any other, against as many at random."""
    right = [[1, 1, 0], [1], [0, 0], [1, 0], [1, 1, 1, 1]]
    table = study(
        {("m", 8, 0): [it for clips in right for it in clips]},
        [g for g, clips in zip("abcde", right, strict=True) for _ in clips],
    )
    every = np.stack(np.meshgrid(*[np.arange(5)] * 5)).reshape(5, -1)
    sums, sizes = np.array([sum(clips) for clips in right]), np.array([len(clips) for clips in right])
    exact = np.percentile(sums[every].sum(0) / sizes[every].sum(0), [2.5, 97.5])
    row = intervals(table, draws=50_000).iloc[0]
    assert [row["low"], row["high"]] == pytest.approx(exact, abs=0.02)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """40 groups that differ, 5 clips each, of which two thirds are right in the long run; a hundred times."""
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(40), 5)
    right = {("m", T, 0): generator.random(200) < generator.beta(2, 1, 40)[groups] for T in range(100)}
    table = intervals(study(right, groups), 2000)
    assert 88 <= ((table["low"] <= 2 / 3) & (table["high"] >= 2 / 3)).sum() <= 99


def test_clips_that_depend_on_each_other_tell_less():
    right = np.repeat(np.random.default_rng(0).random(30) < 0.7, 8)
    by_group = intervals(study({("m", 8, 0): right}, np.repeat(np.arange(30), 8))).iloc[0]
    by_clip = intervals(study({("m", 8, 0): right}, np.arange(240))).iloc[0]
    assert by_group["accuracy"] == by_clip["accuracy"]
    ratio = (by_group["high"] - by_group["low"]) / (by_clip["high"] - by_clip["low"])
    assert ratio == pytest.approx(8**0.5, rel=0.1)


@pytest.mark.parametrize(("groups", "there"), [(1, False), (2, False), (4, False), (5, True)])
def test_few_groups_give_no_interval_and_no_verdict(groups, there):
    named = np.arange(60) % groups
    table = study({("m", 6, 0): named < 1, ("m", 8, 0): [True] * 60}, named)
    assert intervals(table)[["low", "high"]].notna().eq(there).all(axis=None)
    row = comparisons(table).iloc[0]
    assert row[["low", "high", "p_bootstrap", "p_bootstrap_holm"]].notna().eq(there).all()
    assert (row["verdict"] != "unavailable") == there
    assert row["p_mcnemar"] == pytest.approx(min(2 * 0.5 ** row["only_b"], 1))


def test_the_seed_of_the_draws_decides_and_nothing_else(predictions):
    assert intervals(predictions).equals(intervals(predictions))
    assert comparisons(predictions).equals(comparisons(predictions))
    assert not intervals(predictions).equals(intervals(predictions, seed=1))
    shuffled = pd.concat(
        [rows.sample(frac=1, random_state=0) for _, rows in predictions.groupby(["model"], sort=False)]
    )
    assert intervals(predictions).equals(intervals(shuffled))
    assert comparisons(predictions).equals(comparisons(shuffled))


def test_pairs_are_budgets_of_a_model_then_models_at_a_budget(predictions):
    table = comparisons(predictions)
    sides = ["of", "model_a", "budget_a", "model_b", "budget_b"]
    assert list(table[sides].itertuples(index=False, name=None)) == [
        ("budget", "slow", 6, "slow", 16),
        ("budget", "fast", 6, "fast", 16),
        ("model", "slow", 6, "fast", 6),
        ("model", "slow", 16, "fast", 16),
    ]
    accuracy = summary(predictions, 2).set_index(["model", "budget"])["accuracy"]
    for row in table.itertuples():
        gain = accuracy[row.model_b, row.budget_b] - accuracy[row.model_a, row.budget_a]
        assert row.difference == pytest.approx(gain)
        assert row.low <= row.difference <= row.high
    for name in ("bootstrap", "mcnemar"):
        np.testing.assert_array_equal(table[f"p_{name}_holm"], holm(table[f"p_{name}"].to_numpy()))
    alone = comparisons(predictions[(predictions["model"] == "slow") & (predictions["budget"] == 6)])
    assert alone.empty
    assert list(alone) == list(table)


def test_models_are_compared_at_the_budgets_they_share():
    runs = [("m", 6, 0), ("m", 8, 0), ("n", 8, 0), ("n", 6, 0), ("l", 6, 0)]
    table = comparisons(study({run: [1] * 5 for run in runs}, list("abcde")))
    assert list(table[["of", "model_a", "model_b", "budget_b"]].itertuples(index=False, name=None)) == [
        ("budget", "m", "m", 8),
        ("budget", "n", "n", 8),
        ("model", "m", "n", 6),
        ("model", "m", "l", 6),
        ("model", "n", "l", 6),
        ("model", "m", "n", 8),
    ]


def test_the_paired_bootstrap_is_that_of_a_plain_loop(predictions):
    clips = predictions.assign(right=predictions["label"] == predictions["prediction"])
    row = comparisons(predictions, draws=4000).iloc[0]
    slow = clips[clips["model"] == "slow"].pivot_table(index=["group", "clip"], columns="budget", values="right")
    of_group = [(group[16] - group[6]).to_numpy() for _, group in slow.groupby("group")]
    generator = np.random.default_rng(1)
    drawn = np.array(
        [np.concatenate([of_group[g] for g in generator.integers(12, size=12)]).mean() for _ in range(4000)]
    )
    assert [row["low"], row["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    assert row["p_bootstrap"] == pytest.approx(min(2 * (rarer + 1) / 4001, 1), abs=0.05)


def test_mcnemar_by_hand():
    """8 clips are right with 8 frames only, 1 with 6 frames only: P(at most 1 or at least 8 of 9 tosses)."""
    few, many = [1] + [0] * 8 + [1] * 10, [0] + [1] * 8 + [1] * 10
    row = comparisons(study({("m", 6, 0): few, ("m", 8, 0): many}, range(19))).iloc[0]
    assert (row["only_a"], row["only_b"]) == (1, 8)
    assert row["p_mcnemar"] == pytest.approx(2 * (comb(9, 0) + comb(9, 1)) / 2**9)
    assert row["difference"] == pytest.approx(7 / 19)


def test_a_clip_is_right_if_more_than_half_of_the_seeds_are():
    few = {0: [1, 1, 0, 0, 0, 0], 1: [1, 1, 0, 0, 0, 0], 2: [1, 0, 0, 0, 0, 0]}
    many = {0: [1, 0, 1, 1, 1, 1], 1: [0, 0, 1, 1, 1, 0], 2: [0, 0, 1, 0, 1, 0]}
    both = {("m", T, seed): right for T, rights in ((6, few), (8, many)) for seed, right in rights.items()}
    row = comparisons(study(both, range(6))).iloc[0]
    assert (row["only_a"], row["only_b"]) == (2, 3)
    assert row["difference"] == pytest.approx((10 - 5) / 18)
    two = {key: right for key, right in both.items() if key[2] < 2}  # half is not more than half
    row = comparisons(study(two, range(6))).iloc[0]
    assert (row["only_a"], row["only_b"]) == (2, 3)
    assert row["difference"] == pytest.approx((8 - 4) / 12)
    other = {("m", 14 - T, seed): right for (_, T, seed), right in two.items()}
    row = comparisons(study(other, range(6))).iloc[0]
    assert (row["only_a"], row["only_b"]) == (3, 2)


def test_a_clear_difference_is_found_in_either_direction():
    generator = np.random.default_rng(0)
    bad, good = generator.random(100) < 0.4, generator.random(100) < 0.9
    groups = np.arange(100) % 20
    (row,) = comparisons(study({("m", 6, 0): bad, ("m", 8, 0): good}, groups)).itertuples()
    assert row.verdict == "better" and row.low > 0.25
    assert row.p_bootstrap == pytest.approx(2 / 10_001)  # no draw is on the other side
    row = comparisons(study({("m", 6, 0): bad, ("m", 8, 0): good}, groups), draws=1500).iloc[0]
    assert row["p_bootstrap"] == pytest.approx(2 / 1501)
    (row,) = comparisons(study({("m", 6, 0): good, ("m", 8, 0): bad}, groups)).itertuples()
    assert row.verdict == "worse" and row.high < -0.25


def test_the_same_predictions_do_not_differ():
    right = np.random.default_rng(0).random((3, 50)) < 0.7
    both = {("m", T, seed): right[(seed + shift) % 3] for T, shift in ((6, 0), (8, 1)) for seed in range(3)}
    (row,) = comparisons(study(both, np.arange(50) % 7)).itertuples()
    assert (row.difference, row.low, row.high) == (0, 0, 0)
    assert (row.p_bootstrap, row.p_mcnemar, row.p_bootstrap_holm, row.p_mcnemar_holm) == (1, 1, 1, 1)
    assert row.verdict == "undecided"


def test_one_of_the_tests_is_not_enough():
    """The one group in which 8 frames help has all the clips in which they do: McNemar is sure, the groups are not."""
    groups = [0] * 30 + list(range(1, 10)) * 5
    few, many = [0] * 30 + [1] * 45, [1] * 75
    (row,) = comparisons(study({("m", 6, 0): few, ("m", 8, 0): many}, groups)).itertuples()
    assert row.p_mcnemar_holm < 1e-6 and row.p_bootstrap_holm > 0.05
    assert row.verdict == "undecided"


@pytest.mark.parametrize("sign", [1, -1])
def test_tests_that_contradict_each_other_do_not_decide(sign):
    """One of three seeds right everywhere, against two of three on two clips of five: fewer, but the majority."""
    one = {seed: [seed == 0] * 100 for seed in range(3)}
    two = {seed: [seed < 2 and clip % 5 < 2 for clip in range(100)] for seed in range(3)}
    sides = zip((6, 8), (one, two)[::sign], strict=True)
    both = {("m", T, seed): right for T, rights in sides for seed, right in rights.items()}
    (row,) = comparisons(study(both, np.arange(100) // 5)).itertuples()
    assert row.difference * sign < 0 and (row.only_b - row.only_a) * sign > 0
    assert max(row.p_bootstrap_holm, row.p_mcnemar_holm) < 0.05
    assert row.verdict == "undecided"


def test_sides_that_were_tested_otherwise_are_named():
    table = study({("m", 6, 0): [1] * 6, ("m", 8, 0): [1] * 6}, range(6))
    with pytest.raises(ValueError, match="m at budget 8 with seed 0 lacks test clips"):
        comparisons(table[:-1])
    with pytest.raises(ValueError, match="m at budget 6 and m at budget 8 have different seeds"):
        comparisons(study({("m", 6, 0): [1] * 6, ("m", 8, 1): [1] * 6}, range(6)))
    table = study({("m", 6, 0): [1] * 6, ("m", 6, 1): [1] * 6}, range(6))
    with pytest.raises(ValueError, match="m at budget 6 with seed 1 lacks test clips"):
        intervals(table[:-1])
    with pytest.raises(ValueError, match="duplicate"):
        intervals(pd.concat([table, table[:1]]))


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
