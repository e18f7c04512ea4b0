"""The plots. Each function takes tables and returns a figure. `unit`, frames or seconds, is what a budget counts."""

import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, PercentFormatter
from sklearn.metrics import confusion_matrix

from framebudget.console import UserError, new_file
from framebudget.models import NETWORKS
from framebudget.report import names
from framebudget.report.scores import CONFIGURATION, classes_of

matplotlib.use("Agg")
COLUMN, PAGE, TALL = 3.4, 7.0, 8.4  # inches: width of a column and of a page; height of a page
Color = tuple[float, float, float]
PALETTE = sns.color_palette("colorblind")
MARKERS = "osD^vPX"
HEAT = sns.light_palette("#3f4a5a", as_cmap=True)  # of shares in a matrix
LONG = 24  # letters; "Spin Counterclockwise" has 21
RING = {"ls": "", "marker": "o", "ms": 9, "mfc": "none", "mec": "0.15", "mew": 0.8, "zorder": 4}  # the budget needed
FIRST = ["x3d_m", "slowfast_r50"]  # networks that get a color and a marker first
FAMILY = ["STIXGeneral", "DejaVu Sans"]  # matplotlib ships both, and the paper uses the first too
rc = {
    "font.family": FAMILY,
    "mathtext.fontset": "stix",
    **dict.fromkeys(["font.size", "axes.titlesize", "axes.labelsize"], 8),
    **dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 7),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
    **dict.fromkeys(["axes.grid", "figure.constrained_layout.use"], True),
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "frame budget",  # names of parts, else random
}
sns.set_theme("paper", "ticks", "colorblind", rc=rc)


def use_fonts_of(classes: Iterable[str]) -> None:
    """Let later figures set these names, if need be in fonts of the system. The paper lacks those, so it gets paths."""
    others = names.other_fonts(classes)
    matplotlib.rcParams["font.family"] = [*FAMILY, *others]
    matplotlib.rcParams["svg.fonttype"] = "path" if others else "none"


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure of the paper as SVG and PNG. The same figure always gives the same bytes."""
    figure.savefig(folder / f"{name}.svg", dpi=200, metadata={"Date": None})  # Typst cannot embed PDF into PDF/A
    figure.savefig(folder / f"{name}.png", dpi=200)


def write(figure: Figure, path: Path) -> None:
    """Write the whole file or nothing. Raises UserError, as `format_of`."""
    kind = format_of(path)
    with new_file(path) as unfinished:
        figure.savefig(unfinished, dpi=200, format=kind)


def format_of(path: Path) -> str:
    """The format of a plot, by its suffix. Raises UserError if matplotlib does not know it, or the path is a folder."""
    suffix, formats = path.suffix[1:].lower() or "png", Figure().canvas.get_supported_filetypes()
    if suffix not in formats:
        raise UserError(f"{path}: matplotlib cannot write .{suffix} files; choose one of {', '.join(formats)}")
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a file in it")
    return suffix


def readable(name: str) -> str:
    return names.readable(name).replace("$", r"\$")  # matplotlib would set text between two of them as a formula


def wrapped(name: str, lines: int = 2) -> str:
    """The readable name, cut to this many lines."""
    return textwrap.fill(names.readable(name), LONG, max_lines=lines, placeholder=" …").replace("$", r"\$")


def counted(budget: int, unit: str) -> str:
    """1 frame, 6 frames"""
    return f"{budget} {unit[:-1] if budget == 1 else unit}"


def style_of(model: str) -> dict:
    """The color and the marker of a network, the same in every study."""
    place = [*FIRST, *(key for key in NETWORKS if key not in FIRST)].index(model)
    return {"color": PALETTE[place % len(PALETTE)], "marker": MARKERS[place % len(MARKERS)]}


def styles_of(budgets: Iterable[int]) -> dict[int, dict]:
    """The color and the marker of each budget: the more frames, the darker. No network has one of these colors."""
    budgets = sorted(set(budgets))
    colors = sns.color_palette("rocket_r", len(budgets) + 2)[1:-1]
    return {
        budget: {"color": color, "marker": MARKERS[place % len(MARKERS)]}
        for place, (budget, color) in enumerate(zip(budgets, colors, strict=True))
    }


def tint(color: Color, amount: float) -> np.ndarray:
    """The color mixed with white, or below 0 with black."""
    return (1 - abs(amount)) * np.array(color) + max(amount, 0)


def frames_per_clip(split: pd.DataFrame, budgets: list[int], unit: str) -> Figure:
    """The length of every clip, by class, with a line through the median. Budgets that count frames are dotted. The
    number of clips is beside the name of the class."""
    clips = split.drop_duplicates("clip").groupby("class")["frames"]
    axes = Figure(figsize=(COLUMN, min(0.7 + 0.2 * len(clips), TALL))).subplots()
    for y, (_, lengths) in enumerate(clips):
        spread = (np.arange(len(lengths)) * 0.6180339887 % 1 - 0.5) * 0.55  # low-discrepancy, so that marks stay apart
        axes.plot(np.sort(lengths), y + spread, ls="", marker="o", ms=2.2, mew=0, color="0.35", alpha=0.6)
        axes.plot([np.median(lengths)] * 2, [y - 0.38, y + 0.38], color="0.15", lw=1.2)
    for budget in budgets if unit == "frames" else []:
        axes.axvline(budget, color="0.4", ls=":", lw=1)
    axes.set(xlabel="Frames of a clip", xlim=(0, None), ylim=(len(clips) - 0.4, -0.6))
    return _with_classes(axes, list(clips.groups), [f" ({n})" for n in clips.size()])


def _with_classes(axes: Axes, classes: list[str], notes: list[str] | None = None, first: float = 0) -> Figure:
    """Write the names, each with its note, along the y axis from `first` on, wrapped and as small as necessary."""
    size = min(7, 0.85 * 72 * (axes.figure.get_figheight() - 0.7) / len(classes))  # points
    labels = [wrapped(name, 2 if size == 7 else 1) for name in classes]
    if notes:
        labels = [label + note for label, note in zip(labels, notes, strict=True)]
    axes.set_yticks([first + place for place in range(len(classes))], labels)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=size, rotation=0)
    return axes.figure


def learning_curves(curves: pd.DataFrame, unit: str) -> Figure:
    """Accuracy over epochs, means over seeds and folds: validation solid, with its range; training dotted."""
    models, styles = curves["model"].unique(), styles_of(curves["budget"])
    figure = Figure(figsize=(COLUMN, 2.1))
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        rows = curves[curves["model"] == model]
        for budget, trainings in rows.groupby("budget"):
            style = styles[budget]
            by_epoch = trainings.groupby("epoch")[["val_accuracy", "train_accuracy"]].agg(["mean", "min", "max"])
            epoch, validation = by_epoch.index + 1, by_epoch["val_accuracy"]
            often = max(len(epoch) // 5, 1)  # marks on every line, at different epochs
            marks = {"ms": 3, "markevery": (list(styles).index(budget) % often, often)}
            axes.plot(epoch, validation["mean"], lw=1.2, label=counted(budget, unit), **marks, **style)
            axes.fill_between(epoch, validation["min"], validation["max"], color=style["color"], alpha=0.15, lw=0)
            axes.plot(epoch, by_epoch["train_accuracy"]["mean"], color=style["color"], lw=0.8, ls=":")
        axes.set(xlabel="Epoch", xlim=(0.5, rows["epoch"].max() + 1.5), ylim=(0, 1.02), title=NETWORKS[model].name)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=4, min_n_ticks=2)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set_ylabel("Accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    kinds = [Line2D([], [], color="0.35", lw=1.2), Line2D([], [], color="0.35", lw=0.8, ls=":")]
    names_of_lines = [*labels, "validation", "training"]
    figure.legend([*handles, *kinds], names_of_lines, loc="outside lower center", ncols=min(len(names_of_lines), 4))
    return figure


def confusion(predictions: pd.DataFrame, unit: str) -> Figure:
    """Share of each true class (row) that is predicted as each class (column), one panel per model and budget."""
    classes = classes_of(predictions)
    clips = predictions.drop_duplicates("clip")["label"].value_counts().reindex(classes, fill_value=0)
    models, budgets = predictions["model"].nunique(), predictions["budget"].nunique()
    across = min(budgets, 3) if budgets > 1 else models
    lines = -(-models * budgets // across)
    names_below = 1.1 if len(classes) <= 16 else 0.4  # inches
    largest = min((PAGE - 1.3) / max(across, 2.5), (TALL - names_below) / lines - 0.25)
    side = min(max(0.24 * len(classes), 1.2), largest)  # of a panel; its title needs 1.2
    cell = 72 * side / len(classes)  # points
    labels = [wrapped(name, 2 if cell > 14 else 1) for name in classes] if cell > 7 else False
    size = min(7, cell / 2.6)  # of a number, in points
    figure = Figure(figsize=(min(across * (side + 0.15) + 1.3, PAGE), lines * (side + 0.25) + names_below))
    grid = figure.subplots(lines, across, sharex=True, sharey=True, squeeze=False)
    configurations = list(predictions.groupby(CONFIGURATION, sort=False))
    for ((model, budget), rows), axes in zip(configurations, grid.flat, strict=False):
        rows_of = [f"{label} ({clips[name]})" for label, name in zip(labels, classes, strict=True)] if labels else False
        share_KK = confusion_matrix(rows["label"], rows["prediction"], labels=classes, normalize="true")
        sns.heatmap(
            share_KK, ax=axes, vmin=0, vmax=1, cmap=HEAT, cbar=False, square=True, linewidths=0.5 if labels else 0,
            annot=np.round(100 * share_KK).astype(int) if size >= 4 else False, fmt="d",
            annot_kws={"size": size}, xticklabels=labels,
            yticklabels=rows_of,
        )  # fmt: skip
        axes.set_title(f"{NETWORKS[model].name}, {counted(budget, unit)}")
        axes.tick_params(length=0, labelsize=6)
        axes.tick_params(axis="x", rotation=90)
        axes.tick_params(axis="y", rotation=0)
    for axes in grid.flat[len(configurations) :]:
        axes.set_axis_off()
    figure.supxlabel("Predicted" if labels else "Predicted (both in alphabetical order)", fontsize=8)
    figure.supylabel("True (number of clips)" if labels else "True", fontsize=8)
    return figure


def recalls(table: pd.DataFrame, unit: str) -> Figure:
    """The table of `scores.per_class`: which actions need more frames. In percent, a panel per model; the number of
    test clips in each row is beside the name of the class."""
    models, classes = list(table["model"].unique()), list(table["class"].unique())
    clips = table.drop_duplicates("class").set_index("class")["clips"]
    figure = Figure(figsize=(COLUMN, min(1 + 0.24 * len(classes), TALL)))
    for axes, model in zip(figure.subplots(1, len(models), sharey=True, squeeze=False)[0], models, strict=True):
        rows = table[table["model"] == model]
        shares = 100 * rows.pivot(index="class", columns="budget", values="recall").loc[classes]
        sns.heatmap(
            shares.round().astype(int), ax=axes, vmin=0, vmax=100, cmap=HEAT, cbar=False, fmt="d",
            annot=len(classes) <= 30, annot_kws={"size": 7}, linewidths=0.5 if len(classes) <= 30 else 0,
        )  # fmt: skip
        axes.set(xlabel=f"{unit.capitalize()} per clip", ylabel=None)
        axes.set_title(NETWORKS[model].name)
        axes.tick_params(length=0)
    return _with_classes(figure.axes[0], classes, [f" ({clips[name]})" for name in classes], 0.5)


def accuracy(results: pd.DataFrame, by_seed: pd.DataFrame, needed: pd.DataFrame, chance: float, unit: str) -> Figure:
    """Test accuracy over budgets, and over the multiply-adds of a clip: means over seeds with intervals, every seed as
    a small mark. If budgets count seconds, all cost the same, and the second panel is left out."""
    with_cost = unit == "frames"
    figure = Figure(figsize=(COLUMN, 2.3))
    left, *right = figure.subplots(1, 1 + with_cost, sharey=True, squeeze=False)[0]
    against_budget(left, results, by_seed, needed, chance, unit)
    for axes in right:
        for model, rows in results.groupby("model", sort=False):
            with_intervals(axes, rows["gmacs"], rows, style_of(model))
            if (rows["seeds"] > 1).any():
                seeds = by_seed.merge(rows[["model", "budget", "gmacs"]])
                axes.plot(seeds["gmacs"], seeds["accuracy"], ls="", alpha=0.4, ms=2.5, **style_of(model))
        axes.set(xlabel="Billions of multiply-adds", xscale="log")
        decimal_ticks(axes)
        axes.axhline(chance, color="0.4", ls=":", lw=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def against_budget(
    axes: Axes, results: pd.DataFrame, by_seed: pd.DataFrame, needed: pd.DataFrame, chance: float, unit: str
) -> None:
    """Means over seeds with intervals, seeds as small marks, chance dotted; a ring around the budget that is needed."""
    budgets, models = sorted(results["budget"].unique()), results["model"].nunique()
    for k, (model, rows) in enumerate(results.groupby("model", sort=False)):
        shift = 1.03 ** (2 * k - models + 1)  # keeps the bars of two models apart
        seeds = by_seed[by_seed["model"] == model]
        with_intervals(axes, rows["budget"] * shift, rows, {"label": NETWORKS[model].name} | style_of(model))
        if (rows["seeds"] > 1).any():
            axes.plot(seeds["budget"] * shift, seeds["accuracy"], ls="", alpha=0.4, ms=2.5, **style_of(model))
        enough = rows[rows["budget"].isin(needed.loc[needed["model"] == model, "needed"])]
        axes.plot(enough["budget"] * shift, enough["accuracy"], **RING)
    if needed["needed"].notna().any():
        axes.plot([], [], **RING, label="Shown to be enough")
    axes.axhline(chance, color="0.4", ls=":", lw=1, label="Chance")
    axes.set(xlabel=f"{unit.capitalize()} per clip", ylabel="Test accuracy", ylim=(0, 1.04))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    budget_ticks(axes, budgets)


def budget_ticks(axes: Axes, budgets: list[int]) -> None:
    """A log scale with a tick at every budget; a budget whose number would touch the one before it has none."""
    reach = max(np.log2(budgets[-1] / budgets[0]), 1)
    labels, last = [], -np.inf
    for budget in budgets:
        fits = np.log2(budget) - last > 0.09 * reach
        labels.append(budget if fits else "")
        last = np.log2(budget) if fits else last
    axes.set_xscale("log")
    axes.set_xticks(budgets, labels)
    axes.xaxis.set_minor_locator(NullLocator())


def decimal_ticks(axes: Axes, subs: tuple[int, ...] = (1, 2, 5)) -> None:
    """A log scale with ticks such as 0.1, 0.2 and 0.5."""
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def with_intervals(axes: Axes, x: pd.Series, rows: pd.DataFrame, style: dict) -> None:
    error = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    axes.errorbar(x, rows["accuracy"], error, **{"lw": 1.2, "ms": 4, "elinewidth": 0.8, "capsize": 2} | style)
