"""Scores of the trained networks, computed from the predictions and the learning curves alone.

The table of predictions has one row per test clip and training: model, budget, seed, clip, group, label, prediction,
and `p_<class>`, a probability for each class. Results list models in order of appearance, and budgets ascending.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score, precision_recall_fscore_support

CONFIGURATION = ["model", "budget"]
TRAINING = [*CONFIGURATION, "seed"]
SMALLEST = 1e-6  # probability: predictions have six digits
LEARNED, FLAT = 0.85, 0.03  # training accuracy at the end; rise of the validation accuracy within the last quarter


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes, in the order of their probability columns `p_<class>`."""
    return [column.removeprefix("p_") for column in predictions.columns if column.startswith("p_")]


def scores(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """One row per training: accuracy, top-k accuracy, and macro-F1 over the classes with test clips; and how well the
    probabilities are calibrated.

    ece is the expected calibration error, and ece_chance what a network with the same confidences would have on average
    if it were calibrated. brier is the mean squared distance of the probabilities from the truth (Brier 1950), from 0
    to 2; nll the mean negative log-likelihood, in nats.
    """
    classes, rows = classes_of(predictions), []
    for training, clips in each(predictions, TRAINING):
        truth, guess = clips["label"], clips["prediction"]
        p_NK, place_N = clips.filter(regex="^p_").to_numpy(), _places(truth, classes)
        likely_Nk, of_truth_N = (-p_NK).argsort(kind="stable")[:, :k], p_NK[np.arange(len(p_NK)), place_N]
        tested = [name for name in classes if name in set(truth)]
        rows.append(training | {
            "accuracy": (truth == guess).mean(),
            f"top{k}": (likely_Nk == place_N[:, None]).any(axis=1).mean(),
            "macro_f1": f1_score(truth, guess, labels=tested, average="macro"),
            "ece": ece(clips),
            "ece_chance": ece_chance(clips),
            "brier": np.square(p_NK - np.eye(len(classes))[place_N]).sum(1).mean(),
            "nll": -np.log(of_truth_N.clip(SMALLEST)).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def learned(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration: means over trainings of the last epoch's training accuracy and of the number of the
    epoch that was kept, and `finished`: whether all of them have finished learning.

    A training has finished if its last training accuracy is at least LEARNED, and its validation accuracy is flat: in
    the last quarter of epochs, the mean of the second half is at most FLAT above that of the first, or no epoch was
    better than the best before. A training of one epoch never has.
    curves: rows by model, budget, seed, fold and epoch.
    """
    rows = []
    for configuration, trainings in each(curves, CONFIGURATION):
        last, kept, finished = [], [], []
        for _, curve in trainings.groupby(["seed", "fold"]):
            before, quarter = np.split(curve["val_accuracy"].to_numpy(), [-max(2, len(curve) // 4)])
            half = (len(quarter) + 1) // 2
            rise = quarter[-half:].mean() - quarter[:half].mean() if len(quarter) > 1 else 1
            flat = rise <= FLAT or quarter.max() <= max(before, default=0)
            last.append(curve["train_accuracy"].iloc[-1])
            kept.append(curve.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])["epoch"].iloc[0] + 1)
            finished.append(last[-1] >= LEARNED and flat)
        means = {"train_accuracy": np.mean(last), "best_epoch": np.mean(kept)}
        rows.append(configuration | means | {"finished": all(finished)})
    return pd.DataFrame(rows)


def per_class(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration and class: test clips; precision, recall and F1 as means over seeds, 0 if undefined."""
    classes, tables = classes_of(predictions), []
    for configuration, clips in each(predictions, CONFIGURATION):
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
    parts = each(predictions, CONFIGURATION)
    tables = (pd.DataFrame(configuration | dict(_calibration(clips, bins))) for configuration, clips in parts)
    return pd.concat(tables, ignore_index=True)


def ece(predictions: pd.DataFrame, bins: int = 10) -> float:
    """Expected calibration error of Guo et al. 2017: the mean distance of confidence from accuracy, over all rows."""
    table = _calibration(predictions, bins)
    return float(np.average((table["accuracy"] - table["confidence"]).abs(), weights=table["clips"]))


def ece_chance(predictions: pd.DataFrame, bins: int = 10, draws: int = 100) -> float:
    """The mean `ece` if each confidence were right as often as it says: few clips never look calibrated."""
    generator = np.random.default_rng(0)
    table = _confident(predictions, bins)
    n, confidence = table["confidence"].groupby(table["bin"]).agg(["size", "sum"]).to_numpy().T
    right_DN = generator.random((draws, len(table))) < table["confidence"].to_numpy()
    in_bin_NB = (table["bin"].to_numpy()[:, None] == np.unique(table["bin"])).astype(float)
    return float(np.abs(right_DN @ in_bin_NB - confidence).sum(1).mean() / n.sum())


def _confident(predictions: pd.DataFrame, bins: int) -> pd.DataFrame:
    """confidence, accuracy (whether it is right) and bin of every prediction."""
    place_N = _places(predictions["prediction"], classes_of(predictions))
    confidence = predictions.filter(regex="^p_").to_numpy()[np.arange(len(place_N)), place_N]
    right = predictions["label"].to_numpy() == predictions["prediction"].to_numpy()
    inner = np.arange(1, bins) / bins
    return pd.DataFrame({"confidence": confidence, "accuracy": right, "bin": np.searchsorted(inner, confidence)})


def _calibration(predictions: pd.DataFrame, bins: int) -> pd.DataFrame:
    edges, by_bin = np.arange(bins + 1) / bins, _confident(predictions, bins).groupby("bin")
    means = by_bin.mean()
    ends = {"lower": edges[means.index], "upper": edges[means.index + 1], "clips": by_bin.size()}
    return pd.DataFrame(ends).join(means)


def _places(names: pd.Series, classes: list[str]) -> np.ndarray:
    """The index of each name in the classes. Raises KeyError for an unknown name."""
    return pd.Series(range(len(classes)), classes).loc[names].to_numpy()


def each(predictions: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The keys of every configuration or training, and its rows."""
    for model, rows in predictions.groupby("model", sort=False):
        for others, part in rows.groupby(keys[1:]):
            yield dict(zip(keys, (model, *others), strict=True)), part
