"""Scores, intervals and tests, computed from the predictions alone.

The table of predictions has one row per test clip and training: model, budget, seed, clip, group, label, prediction,
and `p_<class>`, a probability for each class. Results list models in order of appearance, and budgets ascending.
Intervals and tests take the trained networks as given and estimate how results vary with the test clips. Only the
deviation over seeds shows how another training might have ended.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_recall_fscore_support

CONFIGURATION = ["model", "budget"]
TRAINING = [*CONFIGURATION, "seed"]
Configuration = tuple[str, int]
FEWEST_GROUPS = 5  # for the bootstrap: 2 groups have 3 different draws, 4 have 35


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes, in the order of their probability columns `p_<class>`."""
    return [column.removeprefix("p_") for column in predictions.columns if column.startswith("p_")]


def scores(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """One row per training: accuracy, top-k accuracy, macro-F1 over the classes with test clips, calibration error."""
    classes, rows = classes_of(predictions), []
    for training, clips in _each(predictions, TRAINING):
        truth, guess = clips["label"], clips["prediction"]
        likely_Nk = (-clips.filter(regex="^p_").to_numpy()).argsort(kind="stable")[:, :k]
        tested = [name for name in classes if name in set(truth)]
        rows.append(training | {
            "accuracy": (truth == guess).mean(),
            f"top{k}": (likely_Nk == _places(truth, classes)[:, None]).any(axis=1).mean(),
            "macro_f1": f1_score(truth, guess, labels=tested, average="macro"),
            "ece": ece(clips),
        })  # fmt: skip
    return pd.DataFrame(rows)


def summary(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """One row per configuration: number of seeds, means of `scores` over them, the sample standard deviation of the
    accuracy (NaN for one seed), and its interval."""
    table = intervals(predictions)
    trainings = scores(predictions, k).groupby(CONFIGURATION, sort=False)
    table.insert(2, "seeds", trainings.size().to_numpy())
    table.insert(4, "accuracy_std", trainings["accuracy"].std().to_numpy())
    return table.join(trainings.mean().drop(columns=["seed", "accuracy"]), on=CONFIGURATION)


def per_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration and class: test clips; precision, recall and F1 as means over seeds, 0 if undefined."""
    classes, tables = classes_of(predictions), []
    for configuration, clips in _each(predictions, CONFIGURATION):
        seeds = [
            precision_recall_fscore_support(rows["label"], rows["prediction"], labels=classes, zero_division=0)[:3]
            for _, rows in clips.groupby("seed")
        ]
        tested = clips.drop_duplicates("clip")["label"].value_counts().reindex(classes, fill_value=0)
        values = dict(zip(["precision", "recall", "f1"], np.mean(seeds, axis=0), strict=True))
        tables.append(pd.DataFrame(configuration | {"class": classes, "clips": tested.to_numpy()} | values))
    return pd.concat(tables, ignore_index=True)


def reliability(predictions: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """One row per configuration and bin of confidence: clips, their mean confidence, and their accuracy.

    As in Guo et al. 2017 (arXiv:1706.04599): bins (lower, upper] of equal width, by the probability of the predicted
    class. A clip counts once per seed; empty bins are left out.
    """
    parts = _each(predictions, CONFIGURATION)
    tables = (pd.DataFrame(configuration | dict(_calibration(clips, bins))) for configuration, clips in parts)
    return pd.concat(tables, ignore_index=True)


def ece(predictions: pd.DataFrame, bins: int = 10) -> float:
    """Expected calibration error of Guo et al. 2017: the mean distance of confidence from accuracy, over all rows."""
    table = _calibration(predictions, bins)
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["clips"]))


def _calibration(predictions: pd.DataFrame, bins: int) -> pd.DataFrame:
    place_N = _places(predictions["prediction"], classes_of(predictions))
    confidence = predictions.filter(regex="^p_").to_numpy()[np.arange(len(place_N)), place_N]
    right = predictions["label"].to_numpy() == predictions["prediction"].to_numpy()
    edges = np.arange(bins + 1) / bins
    clips = pd.DataFrame({"confidence": confidence, "accuracy": right})
    by_bin = clips.groupby(np.searchsorted(edges[1:-1], confidence))
    means = by_bin.mean()
    ends = {"lower": edges[means.index], "upper": edges[means.index + 1], "clips": by_bin.size()}
    return pd.DataFrame(ends).join(means)


def intervals(predictions: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """One row per configuration: accuracy, a mean over seeds, and its 95 % bootstrap interval from low to high.

    Percentiles over draws of whole groups, not of clips (Efron & Tibshirani 1993, ch. 13; for clusters Field & Welsh
    2007), because clips of a group tend to be right or wrong together. With few groups the interval is too narrow
    (Cameron, Gelbach & Miller 2008); below FEWEST_GROUPS it is NaN. Raises ValueError if a training lacks test clips.
    """
    rights = _rights(predictions)
    low, high = np.percentile(_resampled(rights, draws, seed), [2.5, 97.5], axis=0)
    accuracy = [right_NS.to_numpy().mean() for right_NS in rights.values()]
    return pd.DataFrame(list(rights), columns=CONFIGURATION).assign(accuracy=accuracy, low=low, high=high)


def comparisons(predictions: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Is b better than a? One row per pair: two budgets of a model, b the larger one, or two models at a budget.

    of              budget or model: what differs between model_a, budget_a and model_b, budget_b
    difference      accuracy of b minus accuracy of a, means over seeds
    low, high       its 95 % interval as in `intervals`, the same groups drawn for both
    only_a, only_b  clips that only one of them gets right (in more than half of the seeds)
    p_bootstrap     two-sided: twice the share of draws on the rarer side of 0, with one draw added to either side
                    (Davison & Hinkley 1997, ch. 4), so that it is never 0
    p_mcnemar       two-sided exact test of McNemar (1947) on only_a and only_b; it assumes independent clips
    p_…_holm        both p corrected for the number of rows (Holm 1979)
    verdict         better or worse if both corrected p are below 0.05 and both tests point the same way, or undecided;
                    unavailable below FEWEST_GROUPS, where low, high and p_bootstrap are NaN

    A single configuration gives no row. Raises ValueError if a training lacks test clips, or if seeds differ in a pair.
    """
    rights = _rights(predictions)
    accuracy_D = dict(zip(rights, _resampled(rights, draws, seed).T, strict=True))
    enough = predictions["group"].nunique() >= FEWEST_GROUPS
    rows = []
    for of, a, b in _pairs(rights):
        a_NS, b_NS = rights[a], rights[b]
        if not a_NS.columns.equals(b_NS.columns):
            raise ValueError("predictions: {} at budget {} and {} at budget {} have different seeds".format(*a, *b))
        difference, difference_D = b_NS.to_numpy().mean() - a_NS.to_numpy().mean(), accuracy_D[b] - accuracy_D[a]
        low, high = np.percentile(difference_D, [2.5, 97.5])
        fewest = min((difference_D <= 0).sum(), (difference_D >= 0).sum())
        p_bootstrap = min(2 * (1 + fewest) / (1 + draws), 1.0) if enough else np.nan
        a_N, b_N = a_NS.mean(axis=1) > 0.5, b_NS.mean(axis=1) > 0.5
        only_a, only_b = (a_N & ~b_N).sum(), (b_N & ~a_N).sum()
        p_mcnemar = binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
        rows.append((of, *a, *b, difference, low, high, only_a, only_b, p_bootstrap, p_mcnemar))
    sides = ["of", "model_a", "budget_a", "model_b", "budget_b"]
    measured = ["difference", "low", "high", "only_a", "only_b", "p_bootstrap", "p_mcnemar"]
    table = pd.DataFrame(rows, columns=sides + measured)
    for test in ("p_bootstrap", "p_mcnemar"):
        table[f"{test}_holm"] = holm(table[test].to_numpy(float))
    found = (table[["p_bootstrap_holm", "p_mcnemar_holm"]] < 0.05).all(axis=1)
    better = found & (table["difference"] > 0) & (table["only_b"] > table["only_a"])
    worse = found & (table["difference"] < 0) & (table["only_b"] < table["only_a"])
    table["verdict"] = np.select([better, worse], ["better", "worse"], "undecided" if enough else "unavailable")
    return table


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for their number: the smallest times m, the next times m - 1, …, never falling (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def _pairs(configurations: Iterable[Configuration]) -> list[tuple[str, Configuration, Configuration]]:
    """All pairs of budgets of a model, then of models at a budget, each with the column that differs."""
    each_two = list(combinations(configurations, 2))
    pairs = [("budget", a, b) for a, b in each_two if a[0] == b[0]]
    return pairs + sorted((("model", a, b) for a, b in each_two if a[1] == b[1]), key=lambda pair: pair[1][1])


def _rights(predictions: pd.DataFrame) -> dict[Configuration, pd.DataFrame]:
    """Whether each test clip is right: rows by (group, clip), a column per seed. ValueError if clips are missing."""
    clips = predictions.assign(right=predictions["label"] == predictions["prediction"])
    rights = clips.pivot(index=["group", "clip"], columns=TRAINING, values="right").sort_index(axis=1)
    if (missing := rights.columns[rights.isna().any()]).size:
        raise ValueError("predictions: {} at budget {} with seed {} lacks test clips".format(*missing[0]))
    configurations = (tuple(keys.values()) for keys, _ in _each(predictions, CONFIGURATION))
    return {configuration: rights[configuration] for configuration in configurations}


def _resampled(rights: dict[Configuration, pd.DataFrame], draws: int, seed: int) -> np.ndarray:
    """accuracy_DC: draws × configurations, the accuracies if other groups had been drawn; NaN below FEWEST_GROUPS.

    A draw takes as many groups as there are, with replacement, the same for all configurations. Sums of whole numbers
    are exact in any order, so two configurations that are equally right differ by 0.
    """
    groups = [right_NS.groupby("group") for right_NS in rights.values()]
    right_GC = np.stack([group.sum().sum(axis=1) for group in groups], axis=1)
    tested_GC = np.stack([group.count().sum(axis=1) for group in groups], axis=1)
    G, C = right_GC.shape
    if G < FEWEST_GROUPS:
        return np.full((draws, C), np.nan)
    generator = np.random.default_rng(seed)
    accuracy_DC = []
    for done in range(0, draws, 1000):  # all draws of thousands of groups at once would take gigabytes
        times_DG = generator.multinomial(G, np.full(G, 1 / G), min(1000, draws - done)).astype(float)
        accuracy_DC.append((times_DG @ right_GC) / (times_DG @ tested_GC))
    return np.concatenate(accuracy_DC)


def _places(names: pd.Series, classes: list[str]) -> np.ndarray:
    """The index of each name in the classes. Raises KeyError for an unknown name."""
    return pd.Series(range(len(classes)), classes).loc[names].to_numpy()


def _each(predictions: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The keys of every configuration or training, and its rows."""
    for model, rows in predictions.groupby("model", sort=False):
        for others, part in rows.groupby(keys[1:]):
            yield dict(zip(keys, (model, *others), strict=True)), part
