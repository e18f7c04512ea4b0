"""The figures of all kept studies: accuracy against frames and cost."""

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from framebudget.report.plots import COLUMN, MARKERS, PAGE, PALETTE, RING, budget_ticks, decimal_ticks, with_intervals

APART = 0.035  # half the distance between two lines, in octaves
INK = "0.3"  # of the legend, where a color means nothing
CLIPS = [PALETTE[k] for k in (2, 3, 4, 5, 9)]  # no network's colors


def answers(table: pd.DataFrame) -> Figure:
    """The table of `report.kept`: test accuracy with 95% intervals against frames, and against the cost of a clip.
    Colors: clips. Markers: networks."""
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
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def against_frames(axes: Axes, table: pd.DataFrame) -> None:
    """A ring is around the budget needed."""
    lines = list(_lines(table))
    for place, (rows, style) in enumerate(lines):
        x = rows["budget"] * 2 ** (APART * (2 * place - len(lines) + 1))
        _line(axes, x, rows, style)
    axes.set(xlabel="Frames per clip", ylabel="Test accuracy")
    budget_ticks(axes, sorted(table["budget"].unique()))
    _finish(axes, table)


def against_cost(axes: Axes, table: pd.DataFrame) -> None:
    for rows, style in _lines(table):
        _line(axes, rows["gmacs"], rows, style)
    axes.set(xlabel="Billions of multiply-adds per clip", xscale="log")
    decimal_ticks(axes, subs=(1,))
    _finish(axes, table)


def _lines(table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict]]:
    """The rows of each study and network, with their style."""
    colors, markers = _styles(table)
    for _, rows in table.groupby(["study", "model"], sort=False):
        first = rows.iloc[0]
        style = {"color": colors[first["clips"]], "marker": markers[first["network"]]}
        yield rows, style | {"ls": "-" if first["start"] else "--"}


def _styles(table: pd.DataFrame) -> tuple[dict[str, tuple], dict[str, str]]:
    """The color of each data set, and the marker of each network."""
    colors = dict(zip(table["clips"].unique(), cycle(CLIPS), strict=False))
    return colors, dict(zip(table["network"].unique(), cycle(MARKERS), strict=False))


def _line(axes: Axes, x: pd.Series, rows: pd.DataFrame, style: dict) -> None:
    with_intervals(axes, x, rows, {"lw": 1.1, "ms": 3.5, "elinewidth": 0.7, "capsize": 1.5} | style)
    learning, enough = ~rows["finished"], rows["needed"]
    hollow = {"color": style["color"], "marker": style["marker"], "mfc": "white", "ms": 3.5, "ls": "", "zorder": 5}
    axes.plot(x[learning], rows["accuracy"][learning], **hollow)
    axes.plot(x[enough], rows["accuracy"][enough], **RING | {"mec": style["color"]})


def _finish(axes: Axes, table: pd.DataFrame) -> None:
    """The range of accuracies, and the entries of the legend."""
    colors, markers = _styles(table)
    for clips, rows in table.groupby("clips", sort=False):
        axes.plot([], [], color=colors[clips], label=f"{clips}, {' and '.join(map(str, rows['px'].unique()))} px")
    for network, marker in markers.items():
        axes.plot([], [], marker, color=INK, ms=3.5, label=network)
    axes.plot([], [], "--", color=INK, label="From scratch")
    axes.plot([], [], "o", color=INK, mfc="white", ms=3.5, label="Not finished learning")
    axes.plot([], [], **RING, label="Shown to be enough")
    axes.set_ylim(np.floor(10 * min(table["low"].min(), table["accuracy"].min())) / 10, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
