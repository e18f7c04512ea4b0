"""The figures. Each function takes tables and gives a matplotlib figure; `save` writes it, always the same bytes."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from framebudget.models import NETWORKS
from framebudget.report import names, statistics

matplotlib.use("Agg")
COLUMN, PAGE, TALL = 3.4, 7.0, 8.4  # inches: one column of the paper, and both; a figure that fills its page
PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vPX"
FAMILY = ["STIXGeneral", "DejaVu Sans"]  # matplotlib's own; the paper is set in the first too
sns.set_theme(
    context="paper",
    style="ticks",
    palette="colorblind",
    rc={
        "font.family": FAMILY,
        "mathtext.fontset": "stix",
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.4,
        "grid.color": "0.88",
        "pdf.fonttype": 42,
        "figure.constrained_layout.use": True,
    },
)


def save(figure: Figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"{name}.pdf", dpi=200, metadata={"CreationDate": None})
    figure.savefig(folder / f"{name}.png", dpi=200)


def write(figure: Figure, path: Path) -> None:
    """By the suffix of its name; whole or not at all. Raises ValueError if matplotlib does not know the suffix."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=200, format=path.suffix.removeprefix(".") or "png")
    partial.replace(path)


def use_fonts(classes: Iterable[str]) -> None:
    """For names that matplotlib's own fonts cannot write."""
    matplotlib.rcParams["font.family"] = [*FAMILY, *names.other_fonts(classes)]


def readable(name: str) -> str:
    return names.readable(name).replace("$", r"\$")  # two of them would be a formula


def wrapped(name: str, lines: int = 2) -> str:
    return names.wrapped(name, lines).replace("$", r"\$")


def style_of(model: str) -> dict:
    """Color and marker of a network, by its place among all."""
    place = list(NETWORKS).index(model)
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}


def clips_per_class(split: pd.DataFrame) -> Figure:
    """Bars: how many clips of each class in training, validation and test; in cross-validation, in all."""
    K, folds = split["class"].nunique(), split["fold"].nunique()
    figure = Figure(figsize=(COLUMN, min(0.9 + (0.32 if folds == 1 else 0.16) * K, TALL)))
    axes = figure.subplots()
    if folds == 1:
        counts = split.groupby(["class", "subset"]).size().rename("clips").reset_index()
        sns.barplot(counts, x="clips", y="class", hue="subset", hue_order=["train", "validation", "test"], ax=axes)
        sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=3, title=None)
    else:
        sns.countplot(split.drop_duplicates("clip").sort_values("class"), y="class", color=PALETTE[0], ax=axes)
    axes.set(xlabel="Clips", ylabel=None)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _classes_below_each_other(axes)
    return figure


def frames_per_clip(split: pd.DataFrame, budgets: list[int], unit: str) -> Figure:
    """How long the clips of each class are: a mark for each, a line through their median; budgets in frames dotted."""
    clips = split.drop_duplicates("clip").sort_values(["class", "clip"])
    classes = list(clips["class"].unique())
    figure = Figure(figsize=(COLUMN, min(0.7 + 0.2 * len(classes), TALL)))
    axes = figure.subplots()
    for y, name in enumerate(classes):
        lengths = np.sort(clips.loc[clips["class"] == name, "frames"])
        spread = (np.arange(len(lengths)) * 0.6180339887 % 1 - 0.5) * 0.55  # low-discrepancy, so that marks stay apart
        axes.plot(lengths, y + spread, ls="", marker="o", ms=2.2, mew=0, color=PALETTE[0], alpha=0.6)
        axes.plot([np.median(lengths)] * 2, [y - 0.38, y + 0.38], color="0.15", lw=1.2)
    for budget in budgets if unit == "frames" else []:
        axes.axvline(budget, color="0.4", ls=":", lw=1)
    axes.set(xlabel="Frames of a clip", xlim=(0, None), ylim=(len(classes) - 0.4, -0.6), yticks=range(len(classes)))
    axes.set_yticklabels(classes)
    _classes_below_each_other(axes)
    return figure


def _classes_below_each_other(axes: Axes) -> None:
    labels = axes.get_yticklabels()
    size = min(7, 0.85 * 72 * (axes.figure.get_figheight() - 0.7) / len(labels))  # points
    axes.set_yticks(axes.get_yticks(), [wrapped(label.get_text(), 2 if size == 7 else 1) for label in labels])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=size)


def learning_curves(curves: pd.DataFrame, unit: str) -> Figure:
    """Accuracy over epochs: validation solid, training dotted; one panel a model, one colour a budget.

    Several seeds or folds: their mean and, of validation, a band over their range; of those that got so far.
    """
    models = list(curves["model"].unique())
    figure = Figure(figsize=(COLUMN, 2.0))
    panels = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
    budgets = sorted(curves["frames"].unique())
    colours = dict(zip(budgets, sns.color_palette("colorblind", len(budgets)), strict=True))
    for axes, model in zip(panels, models, strict=True):
        rows = curves[curves["model"] == model]
        for T, runs in rows.groupby("frames"):
            by_epoch = runs.groupby("epoch")[["val_accuracy", "train_accuracy"]].agg(["mean", "min", "max"])
            epoch, validation, colour = by_epoch.index + 1, by_epoch["val_accuracy"], colours[T]
            axes.plot(epoch, validation["mean"], color=colour, lw=1.2, marker=".", ms=3, label=f"{T} {unit}")
            axes.fill_between(epoch, validation["min"], validation["max"], color=colour, alpha=0.15, lw=0)
            axes.plot(epoch, by_epoch["train_accuracy"]["mean"], color=colour, lw=0.8, ls=":")
        axes.set(title=NETWORKS[model].name, xlabel="Epoch", xlim=(0.5, rows["epoch"].max() + 1.5), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panels[0].set_ylabel("Accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    return figure


def confusion(predictions: pd.DataFrame, unit: str) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns), one panel a model and budget.

    More than 16 classes, whose names would cover each other, are in the order of the alphabet.
    """
    classes = statistics.classes_of(predictions)
    labels = [wrapped(name) for name in classes] if len(classes) <= 16 else False
    models, budgets = list(predictions["model"].unique()), list(predictions["frames"].unique())
    panels = [(model, T) for model in models for T in budgets]
    columns = len(budgets) if len(budgets) > 1 else len(models)
    side = PAGE / max(columns, 2.5)
    figure = Figure(figsize=(PAGE, side * 0.82 * (len(panels) // columns) + 0.5))
    grid = figure.subplots(len(panels) // columns, columns, sharex=True, sharey=True, squeeze=False)
    shares = statistics.confusion(predictions).groupby(["model", "frames"])["share"]
    small = len(classes) <= 12
    for (model, T), axes in zip(panels, grid.flat, strict=True):
        share = shares.get_group((model, T)).to_numpy().reshape(len(classes), len(classes))
        sns.heatmap(
            share, ax=axes, vmin=0, vmax=1, cmap="Blues", cbar=False, square=True, linewidths=0.5 if labels else 0,
            annot=np.round(100 * share).astype(int) if small else False, fmt="d", annot_kws={"size": 6},
            xticklabels=labels, yticklabels=labels,
        )  # fmt: skip
        axes.set_title(f"{NETWORKS[model].name}, {T} {unit}")
        axes.tick_params(length=0, labelsize=6)
        axes.tick_params(axis="x", rotation=90)
        axes.tick_params(axis="y", rotation=0)
    figure.supxlabel("Predicted" if labels else "Predicted (both in the order of the alphabet)", fontsize=8)
    figure.supylabel("True (rows sum to 100 %)", fontsize=8)
    return figure


def accuracy_against_frames(results: pd.DataFrame, scores: pd.DataFrame, chance: float, unit: str) -> Figure:
    """Test accuracy over budgets: means over seeds with their intervals; every seed a small mark; chance dotted."""
    figure = Figure(figsize=(COLUMN, 2.2))
    axes = figure.subplots()
    budgets = sorted(results["frames"].unique())
    apart = 0.02 * (budgets[-1] - budgets[0] or 1)  # so that one model's bars do not cover the other's
    for k, (model, rows) in enumerate(results.groupby("model", sort=False)):
        style = _with_intervals(axes, rows["frames"] + (2 * k - 1) * apart, rows, model)
        seeds = scores[scores["model"] == model]
        if (rows["seeds"] > 1).any():
            axes.plot(seeds["frames"] + (2 * k - 1) * apart, seeds["accuracy"], ls="", alpha=0.4, ms=2.5, **style)
    axes.axhline(chance, color="0.4", ls=":", lw=1, label="Chance")
    axes.set(xlabel=f"{unit.capitalize()} per clip", ylabel="Test accuracy", ylim=(0, 1.02), xticks=budgets)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def accuracy_against_gflops(results: pd.DataFrame) -> Figure:
    """Test accuracy over the multiply-adds of one view, on a logarithmic scale; the budget stands at each mark."""
    figure = Figure(figsize=(COLUMN, 2.2))
    axes = figure.subplots()
    for model, rows in results.groupby("model", sort=False):
        _with_intervals(axes, rows["gflops"], rows, model)
        for row in rows.itertuples():
            axes.annotate(
                row.frames, (row.gflops, row.accuracy), (4, -4), textcoords="offset points", fontsize=7, va="top"
            )
    axes.set(xlabel="GFLOPs of one view", ylabel="Test accuracy", xscale="log", ylim=(0, 1.02))
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def _with_intervals(axes: Axes, x: pd.Series, rows: pd.DataFrame, model: str) -> dict[str, object]:
    """Draw a model's accuracies at x, with their intervals; returns its colour and mark."""
    style = style_of(model)
    error = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    axes.errorbar(x, rows["accuracy"], error, lw=1.2, elinewidth=0.8, capsize=2, label=NETWORKS[model].name, **style)
    return style


def reliability(table: pd.DataFrame, unit: str) -> Figure:
    """Accuracy over confidence, one panel a model, one line a budget; the larger a mark, the more clips are in the bin.

    table: of `statistics.reliability`.
    """
    models, budgets = list(table["model"].unique()), sorted(table["frames"].unique())
    figure = Figure(figsize=(COLUMN, 2.1))
    panels = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
    colours = dict(zip(budgets, sns.color_palette("colorblind", len(budgets)), strict=True))
    for axes, model in zip(panels, models, strict=True):
        axes.plot([0, 1], [0, 1], color="0.4", ls=":", lw=1)
        for T, rows in table[table["model"] == model].groupby("frames"):
            axes.plot(rows["confidence"], rows["accuracy"], color=colours[T], lw=1)
            style = {"color": colours[T], "label": f"{T} {unit}", "lw": 0, "zorder": 3}
            sizes = 3 + 40 * rows["clips"] / rows["clips"].sum()
            axes.scatter(rows["confidence"], rows["accuracy"], sizes, **style)
        axes.set(title=NETWORKS[model].name, xlabel="Confidence", xlim=(0, 1.04), ylim=(0, 1.04))
        axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
            axis.set_ticks([0, 0.5, 1])
    panels[0].set_ylabel("Accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    for handle in legend.legend_handles:
        handle.set_sizes([15])
    return figure


def timeline(times: np.ndarray, probabilities_NK: np.ndarray, classes: list[str], most: int = 6) -> Figure:
    """Probabilities over a video, of the classes that are ever the likeliest, at most so many; a ribbon names the best.

    times: seconds, (N, 2), from and to of each window.
    """
    best_N = probabilities_NK.argmax(1)
    often = np.bincount(best_N, minlength=len(classes))
    shown = [k for k in np.argsort(-often, kind="stable")[:most] if often[k]]
    colours = dict(zip(shown, sns.color_palette("colorblind", len(shown)), strict=True))
    unit, name = (60, "Minutes") if times.max() >= 300 else (1, "Seconds")
    middles = times.mean(1) / unit
    edges = np.concatenate([[times[0, 0] / unit], (middles[1:] + middles[:-1]) / 2, [times[-1, 1] / unit]])
    figure = Figure(figsize=(PAGE, 2.2))
    ribbon, axes = figure.subplots(2, sharex=True, height_ratios=[1, 8])
    for start, end, k in zip(edges[:-1], edges[1:], best_N, strict=True):
        ribbon.axvspan(start, end, color=colours.get(k, "0.8"), lw=0)
    ribbon.set(yticks=[], xlim=(edges[0], edges[-1]))
    ribbon.set_ylabel("Best", rotation=0, ha="right", va="center")
    ribbon.tick_params(length=0)
    for spine in ribbon.spines.values():
        spine.set_visible(False)
    for k in shown:
        axes.plot(middles, probabilities_NK[:, k], color=colours[k], lw=1.2)
        if len(middles) == 1:
            axes.plot(middles, probabilities_NK[:, k], "o", color=colours[k])
    axes.set(xlabel=name, ylabel="Probability", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    lines = [
        Line2D([], [], color=colours[k], lw=1.2) for k in shown
    ]  # of artists, a label with a _ before it is not shown
    labels = [readable(classes[k]) for k in shown]
    figure.legend(lines, labels, loc="outside lower center", ncols=min(len(shown), 6))
    return figure
