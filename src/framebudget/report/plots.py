"""The figures. Each function takes tables and gives a matplotlib figure; `save` writes it, always the same bytes."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import confusion_matrix

from framebudget.params import MODELS
from framebudget.report.tables import classes_of

matplotlib.use("Agg")
COLUMN, PAGE = 3.4, 7.0  # inches: one column of the paper, and both
PALETTE = sns.color_palette("colorblind")
MODEL_COLOUR = {"x3d_m": PALETTE[0], "slowfast_r50": PALETTE[1]}
MODEL_MARK = {"x3d_m": "o", "slowfast_r50": "s"}
sns.set_theme(
    context="paper",
    style="ticks",
    palette="colorblind",
    rc={
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
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(folder / f"{name}.png", dpi=200)


def readable(name: str) -> str:
    """SpinClockwise -> Spin Clockwise."""
    return "".join(f" {c}" if c.isupper() and i and not name[i - 1].isupper() else c for i, c in enumerate(name))


def clips_per_class(split: pd.DataFrame) -> Figure:
    """Bars: how many clips of each class in training, validation and test."""
    counts = split.groupby(["class", "subset"]).size().rename("clips").reset_index()
    figure = Figure(figsize=(COLUMN, 0.9 + 0.32 * counts["class"].nunique()))
    axes = figure.subplots()
    sns.barplot(counts, x="clips", y="class", hue="subset", hue_order=["train", "validation", "test"], ax=axes)
    axes.set(xlabel="Clips", ylabel=None, yticks=range(counts["class"].nunique()))
    axes.set_yticklabels([readable(label.get_text()) for label in axes.get_yticklabels()])
    axes.grid(axis="y", visible=False)
    sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=3, title=None)
    return figure


def strips(clips: list[tuple[str, float, dict[int, tuple[np.ndarray, np.ndarray]]]]) -> Figure:
    """The frames that each budget sees, at the times they are taken.

    clips: (title, frames per second, {budget: (indices (T,), frames uint8 (T, H, W, C))}), one for every clip.
    """
    budgets = list(clips[0][2])
    spans, slots = zip(*(_span_and_slot([indices for indices, _ in seen.values()]) for *_, seen in clips), strict=True)
    across = max(span / slot for span, slot in zip(spans, slots, strict=True)) + 2.6  # slots, and room for the labels
    side = min(PAGE / across, 0.6)
    figure = Figure(figsize=(across * side, len(clips) * (len(budgets) * side * 1.06 + 0.42)))
    panels = np.atleast_1d(figure.subplots(len(clips)))
    for axes, (title, fps, seen), span, slot in zip(panels, clips, spans, slots, strict=True):
        start = min(indices.min() for indices, _ in seen.values())
        for row, (_, (indices, frames)) in enumerate(reversed(seen.items())):
            for index, frame in zip(indices, frames, strict=True):
                middle = index - start
                extent = (middle - 0.47 * slot, middle + 0.47 * slot, row - 0.47, row + 0.47)
                axes.imshow(frame, extent=extent, interpolation="antialiased")
        times = seen[min(budgets)][0] - start
        axes.set(
            xlim=(-0.55 * slot, span + 0.55 * slot),
            ylim=(-0.55, len(budgets) - 0.45),
            yticks=range(len(budgets)),
            yticklabels=[f"{T} frames" for T in reversed(seen)],
            xticks=times,
            xticklabels=[f"{time / fps:.2f}" for time in times],
            xlabel="Seconds in the window" if axes.get_subplotspec().is_last_row() else None,
        )
        axes.set_title(title, loc="left", pad=2)
        axes.set_aspect(slot)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _span_and_slot(rows: list[np.ndarray]) -> tuple[int, int]:
    """How many frames the rows of indices reach over, and how wide a picture may be so that none covers the next."""
    gaps = np.concatenate([np.diff(indices) for indices in rows])
    span = max(max(map(np.max, rows)) - min(map(np.min, rows)), 1)
    return span, min(gaps[gaps > 0], default=span)


def learning_curves(curves: pd.DataFrame) -> Figure:
    """Accuracy over epochs: validation solid, training dotted; one panel a model, one colour a budget."""
    models = list(curves["model"].unique())
    figure = Figure(figsize=(COLUMN, 2.0))
    panels = np.atleast_1d(figure.subplots(1, len(models), sharey=True))
    budgets = sorted(curves["frames"].unique())
    colours = dict(zip(budgets, sns.color_palette("colorblind", len(budgets)), strict=True))
    for axes, model in zip(panels, models, strict=True):
        rows = curves[curves["model"] == model]
        for (T, _), run in rows.groupby(["frames", "seed"]):
            epoch, colour = run["epoch"] + 1, colours[T]
            axes.plot(epoch, run["val_accuracy"], color=colour, lw=1.2, marker=".", ms=3, label=f"{T} frames")
            axes.plot(epoch, run["train_accuracy"], color=colour, lw=0.8, ls=":")
        axes.set(title=MODELS[model], xlabel="Epoch", xlim=(0.5, rows["epoch"].max() + 1.5), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panels[0].set_ylabel("Accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=min(len(once), 4))
    return figure


def confusion(predictions: pd.DataFrame) -> Figure:
    """Share of each true class (rows) that is taken for each class (columns), one panel a model and budget."""
    classes = classes_of(predictions)
    names = [readable(name) for name in classes]
    models, budgets = list(predictions["model"].unique()), list(predictions["frames"].unique())
    panels = [(model, T) for model in models for T in budgets]
    columns = len(budgets) if len(budgets) > 1 else len(models)
    side = PAGE / max(columns, 2.5)
    figure = Figure(figsize=(PAGE, side * 0.82 * (len(panels) // columns) + 0.5))
    grid = figure.subplots(len(panels) // columns, columns, sharex=True, sharey=True, squeeze=False)
    for (model, T), axes in zip(panels, grid.flat, strict=True):
        rows = predictions[(predictions["model"] == model) & (predictions["frames"] == T)]
        share = confusion_matrix(rows["label"], rows["prediction"], labels=classes, normalize="true")
        small = len(classes) <= 12
        sns.heatmap(
            share, ax=axes, vmin=0, vmax=1, cmap="Blues", cbar=False, square=True, linewidths=0.5,
            annot=np.round(100 * share).astype(int) if small else False, fmt="d", annot_kws={"size": 6},
            xticklabels=names, yticklabels=names,
        )  # fmt: skip
        axes.set_title(f"{MODELS[model]}, {T} frames")
        axes.tick_params(length=0, labelsize=6)
        axes.tick_params(axis="x", rotation=90)
        axes.tick_params(axis="y", rotation=0)
    figure.supxlabel("Predicted", fontsize=8)
    figure.supylabel("True (rows sum to 100 %)", fontsize=8)
    return figure


def accuracy_against_frames(scores: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy over frame budgets: every seed a mark, a line through the means, chance dotted."""
    figure = Figure(figsize=(COLUMN, 2.2))
    axes = figure.subplots()
    for model, rows in scores.groupby("model", sort=False):
        means = rows.groupby("frames")["accuracy"].mean()
        colour, mark = MODEL_COLOUR[model], MODEL_MARK[model]
        axes.plot(means.index, means, color=colour, marker=mark, label=MODELS[model])
        axes.plot(rows["frames"], rows["accuracy"], color=colour, marker=mark, ls="", alpha=0.4, ms=4)
    axes.axhline(chance, color="0.4", ls=":", lw=1, label="Chance")
    axes.set(xlabel="Frames per clip", ylabel="Test accuracy", ylim=(0, 1.02))
    axes.set_xticks(sorted(scores["frames"].unique()))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure
