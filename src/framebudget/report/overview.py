"""The figures of all kept studies: accuracy against frames and cost."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from framebudget.report.plots import COLUMN, MARKERS, PAGE, PALETTE, RING, budget_ticks, decimal_ticks, with_intervals

APART = 0.035  # half the distance between two lines, in octaves
CLIPS = [PALETTE[k] for k in (2, 3, 4, 5, 9)]  # no network's colors


def answers(table: pd.DataFrame) -> Figure:
    """The table of `report.kept`: test accuracy with 95% intervals against frames, and against the cost of a clip."""
    figure = Figure(figsize=(PAGE, 2.6))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    against_frames(left, table)
    against_cost(right, table)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def cost(table: pd.DataFrame) -> Figure:
    """The right panel of `answers` alone."""
    figure = Figure(figsize=(COLUMN, 2.6))
    axes = figure.subplots()
    against_cost(axes, table)
    axes.set_ylabel("Test accuracy")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure


def against_frames(axes: Axes, table: pd.DataFrame) -> None:
    """A ring is around the budget needed. Colors: clips. Markers: networks; hollow: not all trainings have finished
    learning. Dashed: from scratch."""
    lines = list(_lines(table))
    for place, (rows, style) in enumerate(lines):
        x = rows["budget"] * 2 ** (APART * (2 * place - len(lines) + 1))
        _line(axes, x, rows, style)
    axes.plot([], [], **RING, label="Shown to be enough")
    axes.set(xlabel="Frames per clip", ylabel="Test accuracy")
    budget_ticks(axes, sorted(table["budget"].unique()))
    _from_lowest(axes, table)


def against_cost(axes: Axes, table: pd.DataFrame) -> None:
    for rows, style in _lines(table):
        _line(axes, rows["gmacs"], rows, style)
    axes.set(xlabel="Billions of multiply-adds per clip", xscale="log")
    decimal_ticks(axes, subs=(1,))
    _from_lowest(axes, table)


def _lines(table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict]]:
    """The rows of each study and network, with their style."""
    clips = {name: place for place, name in enumerate(table["clips"].unique())}
    networks = {name: place for place, name in enumerate(table["network"].unique())}
    for _, rows in table.groupby(["study", "model"], sort=False):
        first = rows.iloc[0]
        begins = "" if first["start"] else ", from scratch"
        yield (
            rows,
            {
                "color": CLIPS[clips[first["clips"]] % len(CLIPS)],
                "marker": MARKERS[networks[first["network"]] % len(MARKERS)],
                "ls": "-" if first["start"] else "--",
                "label": f"{first['clips']}, {first['px']} px: {first['network']}{begins}",
            },
        )


def _line(axes: Axes, x: pd.Series, rows: pd.DataFrame, style: dict) -> None:
    with_intervals(axes, x, rows, {"lw": 1.1, "ms": 3.5, "elinewidth": 0.7, "capsize": 1.5} | style)
    learning, enough = ~rows["finished"], rows["needed"]
    hollow = {"color": style["color"], "marker": style["marker"], "mfc": "white", "ms": 3.5, "ls": "", "zorder": 5}
    axes.plot(x[learning], rows["accuracy"][learning], **hollow)
    axes.plot(x[enough], rows["accuracy"][enough], **RING | {"mec": style["color"]})


def _from_lowest(axes: Axes, table: pd.DataFrame) -> None:
    axes.set_ylim(np.floor(10 * min(table["low"].min(), table["accuracy"].min())) / 10, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
