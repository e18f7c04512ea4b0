"""Everything that is said about the predictions, computed from their table alone.

The table is work/predictions.csv: model, frames, seed, clip, group, label, prediction, and `p_<class>`, a probability
for each class. A *run* is one (model, frames, seed), a *configuration* one (model, frames). Models come in their order
of appearance, budgets ascending.

What the intervals and tests do not hold: how another training would have ended. They take the trained networks as they
are, and ask what other test clips would have shown; of the training, only the deviation over seeds tells.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

RUN = ["model", "frames", "seed"]
CONFIGURATION = ["model", "frames"]
FEWEST_GROUPS = 5  # for the bootstrap: two groups make three different draws, four make 35


class Configuration(NamedTuple):
    model: str
    frames: int

    def __str__(self) -> str:
        return f"{self.model} at {self.frames} frames"


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes, in the order of their probability columns `p_<class>`."""
    return [column.removeprefix("p_") for column in predictions.columns if column.startswith("p_")]


def scores(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """Of every run: accuracy, top-k accuracy, macro-F1 over the classes that have test clips, calibration error."""
    classes = classes_of(predictions)
    rows = []
    for run, clips in _each(predictions, RUN):
        truth, guess = clips["label"], clips["prediction"]
        p_NK = clips[[f"p_{name}" for name in classes]].to_numpy()
        likely_Nk = (-p_NK).argsort(kind="stable")[:, :k]
        tested = [name for name in classes if name in set(truth)]
        rows.append(
            run
            | {
                "accuracy": (truth == guess).mean(),
                f"top{k}": (likely_Nk == _indices(truth, classes)[:, None]).any(axis=1).mean(),
                "macro_f1": f1_score(truth, guess, labels=tested, average="macro"),
                "ece": ece(clips),
            }
        )
    return pd.DataFrame(rows)


def summary(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """Of every configuration: the number of seeds, the means of `scores` over them, and the interval of `intervals`.

    accuracy_std is the sample deviation over seeds, NaN for one seed.
    """
    table = intervals(predictions)
    runs = scores(predictions, k).groupby(CONFIGURATION, sort=False)
    table.insert(2, "seeds", runs.size().to_numpy())
    table.insert(4, "accuracy_std", runs["accuracy"].std().to_numpy())
    return table.join(runs.mean().drop(columns=["seed", "accuracy"]), on=CONFIGURATION)


def per_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """Of every configuration and class: test clips, and precision, recall and F1, means over seeds.

    Zero where nothing is divided by nothing: the precision of a class never predicted, the recall of one never tested.
    """
    classes = classes_of(predictions)
    tables = []
    for configuration, clips in _each(predictions, CONFIGURATION):
        seeds = [
            precision_recall_fscore_support(run["label"], run["prediction"], labels=classes, zero_division=0)[:3]
            for _, run in clips.groupby("seed")
        ]
        labels = clips.drop_duplicates("clip")["label"]
        table = {"class": classes, "clips": [(labels == name).sum() for name in classes]}
        values = zip(["precision", "recall", "f1"], np.mean(seeds, axis=0), strict=True)
        tables.append(pd.DataFrame(configuration | table | dict(values)))
    return pd.concat(tables, ignore_index=True)


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Of every configuration, label and prediction: the share of the label's clips that is taken for the other class.

    K × K rows a configuration, in the order of the classes, all seeds together. The shares of a label sum to 1, or are
    0 where no clip has it.
    """
    classes = classes_of(predictions)
    pairs = {"label": np.repeat(classes, len(classes)), "prediction": np.tile(classes, len(classes))}
    tables = []
    for configuration, clips in _each(predictions, CONFIGURATION):
        share_KK = confusion_matrix(clips["label"], clips["prediction"], labels=classes, normalize="true")
        tables.append(pd.DataFrame(configuration | pairs | {"share": share_KK.ravel()}))
    return pd.concat(tables, ignore_index=True)


def reliability(predictions: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Of every configuration and bin of confidence: clips, their mean confidence, and their accuracy.

    The reliability diagram of Guo et al. 2017 (arXiv:1706.04599): bins (lower, upper] of equal width, by the
    probability of the predicted class. All seeds together, so that a clip counts for each; empty bins are left out.
    """
    tables = [
        _calibration(clips, bins).assign(**configuration) for configuration, clips in _each(predictions, CONFIGURATION)
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[[*CONFIGURATION, *table.columns.drop(CONFIGURATION)]]


def ece(predictions: pd.DataFrame, bins: int = 10) -> float:
    """Expected calibration error of Guo et al. 2017, all rows together: by how much confidence misses accuracy."""
    table = _calibration(predictions, bins)
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["clips"]))


def _calibration(predictions: pd.DataFrame, bins: int) -> pd.DataFrame:
    classes = classes_of(predictions)
    p_NK = predictions[[f"p_{name}" for name in classes]].to_numpy()
    confidence = p_NK[np.arange(len(p_NK)), _indices(predictions["prediction"], classes)]
    right = predictions["label"].to_numpy() == predictions["prediction"].to_numpy()
    edges = np.arange(bins + 1) / bins
    bin_N = np.searchsorted(edges[1:-1], confidence)
    clips = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby(bin_N)
    table = clips.mean()
    table.insert(0, "lower", edges[table.index])
    table.insert(1, "upper", edges[table.index + 1])
    table.insert(2, "clips", clips.size())
    return table.reset_index(drop=True)


def intervals(predictions: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Of every configuration: accuracy, mean over seeds, and its 95 % interval from low to high by the bootstrap.

    Percentiles over draws of whole groups, not of clips (Efron & Tibshirani 1993, ch. 13; for clusters Field & Welsh
    2007): clips of one group share a person or a scene, are right and wrong together, and tell less than as many
    independent ones. Over few groups the interval comes out too narrow (Cameron, Gelbach & Miller 2008), without any
    width where all are equally right; over fewer than five it is NaN, for there is next to nothing to draw. Raises
    ValueError if two runs were not tested on the same clips.
    """
    rights = _rights(predictions)
    low, high = np.percentile(_resampled(rights, draws, seed), [2.5, 97.5], axis=0)
    accuracy = [right_NS.to_numpy().mean() for right_NS in rights.values()]
    return pd.DataFrame(list(rights)).assign(accuracy=accuracy, low=low, high=high)


def comparisons(predictions: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """Is b better than a? One row a pair: two budgets of a model, b with more frames, or two models at a budget.

    of              frames or model: what differs between model_a, frames_a and model_b, frames_b
    difference      accuracy of b minus accuracy of a, means over seeds
    low, high       its 95 % interval as in `intervals`, the same groups drawn for both
    only_a, only_b  clips that one has right and the other has not; right is what more than half of the seeds have right
    p_bootstrap     two-sided: twice the share of draws on the rarer side of 0, one draw more being counted on either
                    side (Davison & Hinkley 1997, ch. 4), so that it is never 0
    p_mcnemar       two-sided exact test of McNemar (1947) on only_a and only_b; it takes the clips for independent
    p_…_holm        both p corrected for the number of rows (Holm 1979)
    verdict         better or worse, if both corrected p are below 0.05 and both tests point the same way, or undecided;
                    unavailable over fewer than five groups, where low, high and p_bootstrap are NaN: draws of so few
                    hardly differ, so that their percentiles mean nothing, and two groups that agree would prove all

    Without pairs the table has its columns and no row. Raises ValueError if two runs were not tested on the same clips,
    or the two sides of a pair not with the same seeds.
    """
    rights = _rights(predictions)
    accuracy_D = dict(zip(rights, _resampled(rights, draws, seed).T, strict=True))
    each_two = list(combinations(rights, 2))
    pairs = [("frames", a, b) for a, b in each_two if a.model == b.model]
    pairs += [("model", a, b) for a, b in sorted(each_two, key=lambda two: two[0].frames) if a.frames == b.frames]
    rows = []
    for of, a, b in pairs:
        a_NS, b_NS = rights[a], rights[b]
        if not a_NS.columns.equals(b_NS.columns):
            raise ValueError(f"predictions: {a} and {b} were not tested with the same seeds")
        difference, difference_D = b_NS.to_numpy().mean() - a_NS.to_numpy().mean(), accuracy_D[b] - accuracy_D[a]
        low, high = np.percentile(difference_D, [2.5, 97.5])
        a_N, b_N = a_NS.mean(axis=1) > 0.5, b_NS.mean(axis=1) > 0.5
        only_a, only_b = (a_N & ~b_N).sum(), (b_N & ~a_N).sum()
        p_mcnemar = binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1.0
        rows.append((of, *a, *b, difference, low, high, only_a, only_b, _two_sided(difference_D), p_mcnemar))
    sides = ["of", "model_a", "frames_a", "model_b", "frames_b"]
    measured = ["difference", "low", "high", "only_a", "only_b", "p_bootstrap", "p_mcnemar"]
    table = pd.DataFrame(rows, columns=sides + measured)
    table["p_bootstrap_holm"] = holm(table["p_bootstrap"].to_numpy(float))
    table["p_mcnemar_holm"] = holm(table["p_mcnemar"].to_numpy(float))
    found = (table[["p_bootstrap_holm", "p_mcnemar_holm"]] < 0.05).all(axis=1)
    better, worse = table["difference"] > 0, table["difference"] < 0
    more, fewer = table["only_b"] > table["only_a"], table["only_b"] < table["only_a"]
    table["verdict"] = np.select([found & better & more, found & worse & fewer], ["better", "worse"], "undecided")
    if predictions["group"].nunique() < FEWEST_GROUPS:
        table["verdict"] = "unavailable"
    return table


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for their number: the smallest times m, the next times m - 1, …, never falling (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected


def _two_sided(difference_D: np.ndarray) -> float:
    if np.isnan(difference_D).any():
        return np.nan
    fewest = min((difference_D <= 0).sum(), (difference_D >= 0).sum())
    return min(2 * (1 + fewest) / (1 + len(difference_D)), 1.0)


def _rights(predictions: pd.DataFrame) -> dict[Configuration, pd.DataFrame]:
    """Of every configuration, which test clips are right: rows by (group, clip), one column a seed.

    Raises ValueError unless all have the same rows.
    """
    rights = {}
    for configuration, clips in _each(predictions, CONFIGURATION):
        key = Configuration(**configuration)
        if clips.duplicated(["clip", "seed"]).any():
            raise ValueError(f"predictions: {key} has a clip twice with one seed")
        right = clips.assign(right=clips["label"] == clips["prediction"])
        rights[key] = right.pivot(index=["group", "clip"], columns="seed", values="right")
        if rights[key].isna().any(axis=None):
            raise ValueError(f"predictions: {key} was not tested on the same clips with every seed")
        first = next(iter(rights))
        if not rights[key].index.equals(rights[first].index):
            raise ValueError(f"predictions: {first} and {key} were not tested on the same clips")
    return rights


def _resampled(rights: dict[Configuration, pd.DataFrame], draws: int, seed: int) -> np.ndarray:
    """draws × configurations: the accuracies, had other groups been drawn; NaN over too few groups.

    A draw takes as many groups as there are, with replacement, the same for all configurations. Right and tested clips
    are whole numbers, whose sums are exact in any order: two configurations that are equally right differ by 0.
    """
    right_GC = np.stack([right_NS.groupby("group").sum().sum(axis=1) for right_NS in rights.values()], axis=1)
    tested_GC = np.stack([right_NS.groupby("group").size() * right_NS.shape[1] for right_NS in rights.values()], axis=1)
    G, C = right_GC.shape
    if G < FEWEST_GROUPS:
        return np.full((draws, C), np.nan)
    generator = np.random.default_rng(seed)
    accuracy_DC = []
    for done in range(0, draws, 1000):  # all draws of thousands of groups at once would take gigabytes
        times_DG = generator.multinomial(G, np.full(G, 1 / G), min(1000, draws - done)).astype(float)
        accuracy_DC.append((times_DG @ right_GC) / (times_DG @ tested_GC))
    return np.concatenate(accuracy_DC)


def _indices(names: pd.Series, classes: list[str]) -> np.ndarray:
    """The place of each name among the classes. Raises ValueError for one that has none."""
    indices = pd.Index(classes).get_indexer(names)
    if (indices < 0).any():
        raise ValueError(f"predictions: no column 'p_{names[indices < 0].iloc[0]}' for the class")
    return indices


def _each(predictions: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """The rows of every configuration or run, with its name: models as they appear, the other keys ascending."""
    for model, rows in predictions.groupby("model", sort=False):
        for others, part in rows.groupby(keys[1:]):
            yield dict(zip(keys, (model, *others), strict=True)), part
