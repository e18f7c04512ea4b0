"""The plots of the controls: other budgets and orders of frames, and what sampling allows on motion."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from framebudget.models import NETWORKS
from framebudget.params import Input
from framebudget.report.controls import SWAY, direction_tells, spacing
from framebudget.report.plots import (
    COLUMN,
    HEAT,
    MARKERS,
    PAGE,
    PALETTE,
    budget_ticks,
    counted,
    decimal_ticks,
    styles_of,
)
from framebudget.sources.motion import PERIODS

COLORS = ["0.15", PALETTE[2], PALETTE[4], "0.6", PALETTE[3]]  # of the orders, and of other networks
GUESSED = (1 + SWAY) / 2  # accuracy of an observer who recognizes every kind of motion and guesses its direction
ORDERS = {"recorded": "as recorded", "reversed": "reversed", "shuffled": "shuffled", "still": "repeated middle frame"}


def controls(table: pd.DataFrame, unit: str) -> Figure:
    """The table of `controls.summary`, a line of panels per model: accuracy of each trained budget (row) at each tested
    budget (column), in percent, and accuracy against the budget with the frames in each order."""
    models = list(table["model"].unique())
    budgets = sorted(table["budget"].unique())
    across = min(len(models), 2)
    figure = Figure(figsize=(COLUMN if across == 1 else PAGE, 0.35 + 1.65 * -(-len(models) // across)))
    grid = figure.subplots(-(-len(models) // across), 2 * across, squeeze=False).reshape(-1, 2)
    for unused in grid[len(models) :].flat:
        unused.set_axis_off()
    for (left, right), model in zip(grid, models, strict=False):
        rows = table[table["model"] == model]
        at = rows[rows["test"].str.startswith("at_")]
        at = at.assign(tested=at["test"].str.removeprefix("at_").astype(int))
        shares = 100 * at.pivot(index="budget", columns="tested", values="accuracy")
        sns.heatmap(
            shares.round().astype(int), ax=left, vmin=0, vmax=100, cmap=HEAT, cbar=False, annot=len(budgets) <= 8,
            fmt="d", annot_kws={"size": 7},
        )  # fmt: skip
        left.set(xlabel=f"{unit.capitalize()} tested", ylabel=f"{unit.capitalize()} trained")
        left.tick_params(length=0)
        left.tick_params(axis="y", rotation=0)
        left.set_title(NETWORKS[model].name)
        own = at[at["tested"] == at["budget"]].assign(test="recorded")
        orders = pd.concat([own, rows[~rows["test"].str.startswith("at_")]])
        draw_lines(right, orders.pivot(index="budget", columns="test", values="accuracy"), ORDERS, unit)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2 * across)
    return figure


def of_kept(answers: pd.DataFrame) -> Figure:
    """The table of `report.kept`, a panel per study and network: accuracy against the budget with the frames in each
    order, and that of the largest budget's networks, tested at this one."""
    tested = answers.dropna(subset=["shuffled"]).rename(columns={"accuracy": "recorded"})
    studies = [rows.set_index("budget") for _, rows in tested.groupby(["study", "model"], sort=False)]
    labels = ORDERS | {"of_largest": f"trained at {tested['budget'].max()}"}
    across = min(len(studies), 2)
    down = -(-len(studies) // across)
    figure = Figure(figsize=(COLUMN, 0.35 + 1.65 * down))
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for unused in grid.flat[len(studies) :]:
        unused.set_axis_off()
    lowest = min(0.5, np.floor(10 * tested[[*labels]].min().min()) / 10)
    for axes, rows in zip(grid.flat, studies, strict=False):
        draw_lines(axes, rows, labels, "frames")
        axes.set_ylim(lowest, 1.02)
        axes.set_title(f"{rows['clips'].iloc[0]}\n{rows['network'].iloc[0]}")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_lines(axes: Axes, shares: pd.DataFrame, labels: dict[str, str], unit: str) -> None:
    """A line for each of these columns. shares: accuracies, by budget."""
    for place, (column, label) in enumerate(labels.items()):
        style = {"color": COLORS[place], "marker": MARKERS[place], "label": label, "zorder": 3 - place / 10}
        axes.plot(shares.index, shares[column], ms=3, lw=1.2, **style)
    budget_ticks(axes, list(shares.index))
    axes.set(xlabel=f"{unit.capitalize()} per clip", ylabel="Test accuracy", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def sampling_limits(bins: pd.DataFrame, spec: Input) -> Figure:
    """The table of `controls.by_frames_per_period`, a panel per model: accuracy in bins of scenes. Thin lines: the
    observer of the aliasing line at each budget. Dotted: guessing the direction."""
    models, styles = list(bins["model"].unique()), styles_of(bins["budget"])
    figure = Figure(figsize=(COLUMN, 2.2))
    for axes, model in zip(figure.subplots(1, len(models), sharey=True, squeeze=False)[0], models, strict=True):
        for budget, part in bins[bins["model"] == model].groupby("budget"):
            style, step = styles[budget], spacing(spec, budget)
            periods = np.linspace(*PERIODS, 1000)
            line = np.where(direction_tells(periods, step), 1, SWAY)
            axes.plot(periods / step, line, color=style["color"], lw=0.8, alpha=0.7)
            axes.plot(
                part["frames_per_period"], part["accuracy"], ls="", ms=3.5, label=counted(budget, "frames"), **style
            )
        axes.axhline(GUESSED, color="0.4", ls=":", lw=1, label="guesses the direction")
        axes.axvline(2, color="0.8", lw=0.8, zorder=0)
        axes.set(xscale="log", xlabel="Frames per period", ylim=(0, 1.04))
        decimal_ticks(axes)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_title(NETWORKS[model].name)
    figure.axes[0].set_ylabel("Test accuracy")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
