"""The kept studies in reports/answers.csv, and whether a study replicates one of them.

One row per study, network and budget:

    study, clips, network, start    its folder in reports/, what it was tested on, and the weights that it started from
    model, budget, px, seeds        the network's key, frames, the crop, and trainings of each budget in each fold
    trained_seeds                   which seeds, as in `0 1 2`
    split                           how the test clips were chosen
    optimizer, lr, epochs, batch    of the recipe; epochs: at most
    window                          seconds that the frames are spread over; empty: the whole clip
    tested, groups, chance          test clips, their groups, and one over the number of classes
    accuracy, accuracy_std, low, high       as in work/tables/results.csv
    finished, needed                whether all trainings have finished learning; whether this is the budget needed
    because                         why the search for the frames needed stopped: as in work/tables/needed.csv
    loss, loss_low, loss_high, at_most      accuracy of the largest budget minus this one's, with its 95% interval,
                                    and its one-sided bound
    of_largest                      accuracy of the largest budget's networks, tested at this budget
    of_largest_low, of_largest_high the 95% interval of that, minus the accuracy of the networks trained at this budget
    reversed, shuffled, still       accuracy of this budget's networks with the frames in another order
    shuffled_low, shuffled_high     the 95% interval of what shuffling changes
    aliasing_line, line_low, line_high      on motion: what sampling allows, and the 95% interval of accuracy minus that
    milliseconds, gmacs             per clip
    recipe                          a digest of what was trained and tested, and how
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from framebudget.console import read_csv
from framebudget.params import Params
from framebudget.report.statistics import ENOUGH_SEEDS, LEVEL
from framebudget.study import in_memory

ANSWERS = Path("reports/answers.csv")
TEXTS = [
    "study", "clips", "network", "start", "model", "trained_seeds", "split", "optimizer", "because", "recipe",
]  # fmt: skip
COLUMNS = [
    "study", "clips", "network", "start", "model", "budget", "px", "window", "seeds", "trained_seeds", "split",
    "optimizer", "lr", "epochs", "batch", "tested", "groups", "chance",
    "accuracy", "accuracy_std", "low", "high", "finished", "needed", "because", "loss", "loss_low", "loss_high",
    "at_most", "of_largest", "of_largest_low", "of_largest_high", "reversed", "shuffled", "shuffled_low",
    "shuffled_high", "still", "aliasing_line", "line_low", "line_high", "milliseconds", "gmacs", "recipe",
]  # fmt: skip


def read() -> pd.DataFrame:
    """The table. Empty cells of numbers are NaN."""
    table = in_memory(read_csv(ANSWERS, dict.fromkeys(TEXTS, str), "python reports/studies.py show"))
    numbers = table.columns.difference([*TEXTS, "finished", "needed"])
    table[numbers] = table[numbers].apply(pd.to_numeric)
    return table


def recipe(p: Params, model: str, clips_sha256: str) -> str:
    """A digest of the clips, their split, the input, the training and its weights, by name; not of the machine."""
    weights = Path(p.weights(model) or "").name
    parts = [p.data.split, p.data.evaluate, p.input(model), p.recipe(model)]
    facts = [p.protocol, model, weights, clips_sha256, *(part.model_dump() for part in parts)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def replication(answers: pd.DataFrame, results: pd.DataFrame, recipes: dict[str, str]) -> pd.DataFrame:
    """Accuracies of a study beside those of the kept study with the same recipe: one row per budget that both have.

    expected_low, expected_high: the prediction interval for a mean over as many seeds as `results` has, from the
    deviation over the kept study's seeds (Student's t), at least one clip to either side; 95% for all rows together
    (Bonferroni). agrees: whether the accuracy is within it. recipes: of each model, as `recipe` computes it.
    """
    kept = answers[answers["recipe"].isin(recipes.values()) & (answers["seeds"] > 1)]
    own = results[["model", "budget", "seeds", "accuracy"]]
    table = own.merge(kept, on=["model", "budget"], suffixes=("", "_kept"))
    t = stdtrit(table["seeds_kept"] - 1, 1 - LEVEL / 2 / max(1, len(table)))
    margin = t * table["accuracy_std"] * np.sqrt(1 / table["seeds"] + 1 / table["seeds_kept"])
    margin = margin.clip(lower=1 / table["tested"])
    table["expected_low"] = (table["accuracy_kept"] - margin).clip(lower=0)
    table["expected_high"] = (table["accuracy_kept"] + margin).clip(upper=1)
    table["agrees"] = table["accuracy"].between(table["expected_low"] - 1e-9, table["expected_high"] + 1e-9)
    columns = ["study", "model", "budget", "accuracy", "seeds_kept", "trained_seeds", "accuracy_kept"]
    columns += ["expected_low", "expected_high"]
    return table[[*columns, "agrees"]]


def sentence(rows: pd.DataFrame, brief: bool = False) -> str:
    """Sentences: how many frames one network needs, as far as one study decides it, and, unless `brief`, what is known
    of fewer. rows: of that study and network."""
    first, rows = rows.iloc[0], rows.set_index("budget").sort_index()
    rows["points"] = (100 * rows["loss"]).round(1)
    said = verdict(first, rows)
    if first["seeds"] < ENOUGH_SEEDS and rows["needed"].any():
        said.append(f"This verdict is weak: it rests on {first['seeds']} seeds.")
    if not brief:
        said.extend(of_fewer(first, rows))
    return f"On {first['clips']}, {' '.join(said)}"


def verdict(first: pd.Series, rows: pd.DataFrame) -> list[str]:
    largest, needed = rows.index.max(), rows.index[rows["needed"]]
    network = first["network"] + ("" if first["start"] else " (from scratch)")
    over = "the whole clip" if np.isnan(first["window"]) else f"up to {first['window']:g} s"
    if first["because"] == "trainings":
        reached = ", ".join(f"{accuracy:.1%} with {budget}" for budget, accuracy in rows["accuracy"].items())
        seeds = {1: "one seed cannot", 2: "two seeds cannot"}.get(first["seeds"])
        why = f"{seeds} show how much trainings vary" if seeds else "there are too few groups for an interval"
        return [f"{network} reaches {reached} frames.", f"How many it needs is not known: {why}."]
    if not len(needed):
        known = "our data do not settle" if first["because"] == "undecided" else "it is not known"
        return [f"{known} how many frames {network} needs."]
    if (enough := needed.min()) == largest:
        return [f"{network} needs all {largest} frames, spread over {over}."]
    lost, bound = rows.loc[enough, "points"], 100 * max(rows.loc[enough, "at_most"], 0)
    most = f"at most {bound:.1f}" if lost > 0 else f"at most {bound:.1f} points lower"
    these = "a single frame is" if enough == 1 else f"{enough} frames spread over {over} are"
    loss = f"{loses(lost)}, and {most} by a one-sided 95% bound"
    return [f"{these} enough for {network}.", f"With {enough} instead of {largest}, {loss}."]


def of_fewer(first: pd.Series, rows: pd.DataFrame) -> Iterator[str]:
    """Why the search for a smaller budget ended."""
    largest, needed, because = rows.index.max(), rows.index[rows["needed"]], first["because"]
    below = rows.index[rows.index < min(needed, default=largest)].max()  # NaN if the smallest budget is enough
    if because in ("worse", "undecided", "unlearned"):
        lost, low, high = rows.loc[below, ["points", "loss_low", "loss_high"]]
        of = "" if lost > 0 else "of the loss "
        interval = f"{loses(lost)} (95% interval {of}{points(low)} to {points(high)})"
        if because != "worse" and len(needed):
            yield f"Whether {below} {'is' if below == 1 else 'are'} enough is not settled: with {below}, {interval}."
        else:
            yield f"With {below} instead of {largest}, {interval}."
    if because == "unlearned":
        unfinished = [budget for budget in (below, largest) if not rows.loc[budget, "finished"]]
        frames = "frame" if unfinished == [1] else "frames"
        yield f"With {' or '.join(map(str, unfinished))} {frames}, at least one training has not finished learning."


def loses(lost: float) -> str:
    """lost: in points, rounded."""
    if not lost:
        return "its accuracy is the same"
    return f"it loses {lost} points of accuracy" if lost > 0 else f"its accuracy is {-lost} points higher"


def points(share: float) -> str:
    """-0.013 -> −1.3"""
    return f"{'−' if share < 0 else ''}{100 * abs(share):.1f}"
