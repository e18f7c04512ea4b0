"""From predictions to tables."""

import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

RUN = ["model", "frames", "seed"]


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes, in the order of their probability columns `p_<class>`."""
    return [column.removeprefix("p_") for column in predictions.columns if column.startswith("p_")]


def scores(predictions: pd.DataFrame, k: int) -> pd.DataFrame:
    """Top-1 and top-k accuracy and macro-F1 of every (model, frames, seed)."""
    classes = classes_of(predictions)
    rows = []
    for run, clips in predictions.groupby(RUN, sort=False):
        truth, guess = clips["label"], clips["prediction"]
        likely = clips[[f"p_{name}" for name in classes]].rank(axis=1, method="first", ascending=False)
        hit = [likely.at[i, f"p_{label}"] <= k for i, label in truth.items()]
        rows.append(
            dict(zip(RUN, run, strict=True))
            | {
                "accuracy": accuracy_score(truth, guess),
                f"top{k}": sum(hit) / len(hit),
                "macro_f1": f1_score(truth, guess, labels=classes, average="macro", zero_division=0),
            }
        )
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds, with the standard deviation of the accuracy (empty for a single seed)."""
    groups = scores.groupby(["model", "frames"], sort=False)
    table = groups.mean(numeric_only=True).drop(columns="seed")
    table.insert(1, "accuracy_std", groups["accuracy"].std())
    table.insert(0, "seeds", groups["seed"].count())
    return table.reset_index()


def recall(predictions: pd.DataFrame) -> pd.DataFrame:
    """The share of each class's clips that are recognised, one column a class, mean over seeds."""
    hits = predictions.assign(hit=predictions["label"] == predictions["prediction"])
    table = hits.groupby(["model", "frames", "label"], sort=False)["hit"].mean().unstack("label")
    return table[classes_of(predictions)].reset_index().rename_axis(columns=None)


def latex(table: pd.DataFrame, caption: str) -> str:
    """The table for LaTeX with the booktabs package."""
    return table.to_latex(index=False, escape=True, float_format="%.3f", na_rep="–", caption=caption)
