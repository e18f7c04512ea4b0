import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from framebudget.report.scores import TRAINING, classes_of, ece, ece_chance, learned, per_class, reliability, scores

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
    assert classes_of(predictions) == CLASSES


def test_scores_are_scikit_learns(predictions):
    table = scores(predictions, 2).set_index(TRAINING)
    for run, rows in predictions.groupby(TRAINING, sort=False):
        truth, guess = rows["label"], rows["prediction"]
        row = table.loc[run]
        assert row["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
        best = metrics.top_k_accuracy_score([CLASSES.index(name) for name in truth], rows[P], k=2, labels=range(4))
        assert row["top2"] == pytest.approx(best)
        assert row["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro", zero_division=0))
        assert row["accuracy"] < row["top2"] < 1
        alphabetical, p_NK = sorted(CLASSES), rows[[f"p_{name}" for name in sorted(CLASSES)]].to_numpy()
        assert row["nll"] == pytest.approx(metrics.log_loss(truth, p_NK, labels=alphabetical), rel=1e-3)
        assert row["brier"] == pytest.approx(metrics.brier_score_loss(truth, p_NK, labels=alphabetical))
    assert scores(predictions, 1).set_index(TRAINING)["top1"].equals(table["accuracy"].rename("top1"))
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
    assert ece(clips) == pytest.approx((2 * 0.075 + 2 * 0.345 + (2.94 - 2)) / 7)
    assert ece(clips, bins=1) == pytest.approx((5.4 - 5) / 7)


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
    assert gap - 1e-9 <= ece(table, bins) <= 1
    assert ece(table, 1) == pytest.approx(gap)


def test_a_calibrated_network_has_the_error_that_chance_gives():
    """On many clips none; on few, as much as a plain loop finds."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 20_000)
    table = sure(list(confidence), list(generator.random(20_000) < confidence))
    assert ece(table) == pytest.approx(ece_chance(table), abs=0.005) == pytest.approx(0, abs=0.02)
    few = table[:30]
    drawn = [ece(sure(list(confidence[:30]), list(generator.random(30) < confidence[:30]))) for _ in range(400)]
    assert ece_chance(few, draws=2000) == pytest.approx(np.mean(drawn), rel=0.1)
    assert ece_chance(few) > 5 * ece_chance(table)


def curve(train: list[float], validation: list[float], budget: int = 6, seed: int = 0) -> pd.DataFrame:
    losses = range(len(train), 0, -1)
    columns = {"train_accuracy": train, "val_accuracy": validation, "val_loss": losses, "epoch": range(len(train))}
    return pd.DataFrame({"model": "m", "budget": budget, "seed": seed, "fold": 0} | columns)


@pytest.mark.parametrize(
    ("train", "validation", "finished"),
    [
        ([0.2, 0.5, 0.8, 0.9], [0.2, 0.6, 0.8, 0.82], True),
        ([0.2, 0.5, 0.8, 0.9], [0.2, 0.6, 0.7, 0.8], False),  # still rising
        ([0.9] * 12, [0.5] * 9 + [0.7, 0.75, 0.73], True),  # halves of three epochs share the middle: 0.725, 0.74
        ([0.9] * 4, [0.2, 0.8, 0.7, 0.8], True),  # back to where it was
        ([0.9] * 4, [0.2, 0.75, 0.7, 0.8], False),
        ([0.2, 0.5, 0.7, 0.8], [0.2, 0.6, 0.8, 0.8], False),  # has not learned the clips that it trains on
        ([0.9], [1.0], False),  # nobody knows whether it would rise
        ([0.2, 0.5, 0.8, 0.9] * 2, [0.2] * 6 + [0.8, 0.8], True),
    ],
)
def test_a_training_has_finished_if_it_has_learned_and_its_curve_is_flat(train, validation, finished):
    (row,) = learned(curve(train, validation)).to_dict("records")
    assert row["finished"] == finished
    assert row["train_accuracy"] == train[-1]


def test_the_kept_epoch_and_one_seed_that_has_not_finished():
    good, bad = ([0.2, 0.9, 0.9, 0.9], [0.2, 0.8, 0.8, 0.7]), ([0.2, 0.3, 0.4, 0.5], [0.2, 0.3, 0.3, 0.3])
    table = learned(pd.concat([curve(*good, 6), curve(*bad, 6, seed=1), curve(*good, 8)]))
    assert table[["model", "budget", "finished"]].to_numpy().tolist() == [["m", 6, False], ["m", 8, True]]
    assert table["best_epoch"].tolist() == [3.5, 3]  # of equal accuracies the lowest loss, here the last one
    assert table["train_accuracy"].tolist() == pytest.approx([0.7, 0.9])
