"""The figure of all kept studies: accuracy against frames and cost."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, PercentFormatter

from framebudget.report.plots import MARKERS, PAGE, PALETTE, with_intervals

APART = 0.035  # half the distance between two lines, in octaves


def answers(table: pd.DataFrame) -> Figure:
    """The table of `report.kept`: test accuracy with its 95 % interval against frames, and against the cost of a clip.
    A ring is around the budget needed. Colors: clips. Dashed: from scratch."""
    figure = Figure(figsize=(PAGE, 2.6))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    lines = list(table.groupby(["study", "model"], sort=False))
    clips = {name: place for place, name in enumerate(table["clips"].unique())}
    networks = {name: place for place, name in enumerate(table["network"].unique())}
    for place, (_, rows) in enumerate(lines):
        first = rows.iloc[0]
        start = "" if first["start"] else ", from scratch"
        style = {
            "color": PALETTE[clips[first["clips"]] % len(PALETTE)],
            "marker": MARKERS[networks[first["network"]] % len(MARKERS)],
            "ls": "-" if first["start"] else "--",
            "label": f"{first['clips']}: {first['network']}{start}",
        }
        shift = 2 ** (APART * (2 * place - len(lines) + 1))
        _line(left, rows["budget"] * shift, rows, style)
        _line(right, rows["gmacs"], rows, style)
    left.plot([], [], "o", ms=8, mfc="none", mec="0.15", mew=0.8, label="Frames needed")
    budgets = sorted(table["budget"].unique())
    left.set(xlabel="Frames per clip", ylabel="Test accuracy", xscale="log", xticks=budgets, xticklabels=budgets)
    left.set_ylim(np.floor(10 * min(table["low"].min(), table["accuracy"].min())) / 10, 1.03)
    right.set(xlabel="10⁹ multiply-adds per clip", xscale="log")
    right.xaxis.set_major_locator(LogLocator(subs=(1,)))
    right.xaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    left.xaxis.set_minor_locator(NullLocator())
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _line(axes: Axes, x: pd.Series, rows: pd.DataFrame, style: dict) -> None:
    with_intervals(axes, x, rows, {"lw": 1.1, "ms": 3.5, "elinewidth": 0.7, "capsize": 1.5} | style)
    enough = rows["needed"]
    axes.plot(x[enough], rows["accuracy"][enough], "o", ms=10, mfc="none", mec="0.15", mew=0.8, zorder=4)
