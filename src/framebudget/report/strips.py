"""Clips as strips of frames: which frames each budget and epoch sees, mistakes of networks, and where they look."""

from itertools import product

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from framebudget.params import Input
from framebudget.report.plots import COLUMN, LONG, PAGE, PALETTE, readable, tint
from framebudget.video import sampling

MOST = 8  # frames per strip, which fill the width of a page
HEAT = colormaps["inferno"]  # brighter means more: in color, in gray, and for color-blind readers
DIM = 0.45  # brightness of a picture without attention
LUMA = 0.299, 0.587, 0.114  # brightness of red, green and blue (ITU-R BT.601)
EPOCHS = 5  # of a training, to show how it samples


def mistakes(predictions: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """The n most confident wrong predictions, at most one per clip, with a column `confidence`; maybe no rows."""
    rows = _most_confident_first(predictions)
    return rows[rows["label"] != rows["prediction"]].drop_duplicates("clip").head(n)


def right_and_wrong(predictions: pd.DataFrame, model: str, budget: int) -> pd.DataFrame:
    """The most confident right and wrong prediction, if there are any, of a model at a budget; as in `mistakes`."""
    rows = _most_confident_first(predictions[(predictions["model"] == model) & (predictions["budget"] == budget)])
    right = rows["label"] == rows["prediction"]
    return pd.concat([rows[right].head(1), rows[~right].head(1)])


def _most_confident_first(predictions: pd.DataFrame) -> pd.DataFrame:
    """Ties are broken by the name of the clip, then by the order of `predictions`."""
    rows = predictions.assign(confidence=predictions.filter(regex="^p_").max(axis=1))
    return rows.sort_values(["confidence", "clip"], ascending=[False, True], kind="stable")


def strips(clips: list[tuple[str, float, dict[int, tuple[np.ndarray, np.ndarray]]]], unit: str) -> Figure:
    """The frames that each budget sees, at their times. unit: what a budget counts.

    clips: (title, frames per second, {budget: (indices (T,), frames uint8 (T, H, W, C))}) for every clip.
    """
    budgets = list(clips[0][2])
    spans, slots = [], []  # frames from first to last; frames that a picture may cover without hiding the next
    for *_, samples in clips:
        indices = [at for at, _ in samples.values()]
        gaps = np.concatenate([np.diff(at) for at in indices])
        spans.append(max(np.ptp(np.concatenate(indices)), 1))
        slots.append(min(gaps[gaps > 0], default=spans[-1]))
    across = max(span / slot for span, slot in zip(spans, slots, strict=True)) + 2.6  # slots, and room for the labels
    side = min(PAGE / across, 0.6)
    figure = Figure(figsize=(across * side, len(clips) * (len(budgets) * side * 1.06 + 0.42)))
    panels = figure.subplots(len(clips), squeeze=False)[:, 0]
    for axes, (title, fps, samples), span, slot in zip(panels, clips, spans, slots, strict=True):
        start = min(indices.min() for indices, _ in samples.values())
        for row, (indices, frames) in enumerate(reversed(samples.values())):
            for x, frame in zip(indices - start, frames, strict=True):
                extent = (x - 0.47 * slot, x + 0.47 * slot, row - 0.47, row + 0.47)
                axes.imshow(frame, extent=extent, interpolation="antialiased")
        times = samples[min(budgets)][0] - start
        axes.set(
            xlim=(-0.55 * slot, span + 0.55 * slot), ylim=(-0.55, len(budgets) - 0.45),
            yticks=range(len(budgets)), yticklabels=[f"{budget} {unit}" for budget in reversed(samples)],
            xticks=times, xticklabels=[f"{time / fps:.2f}" for time in times], aspect=slot,
        )  # fmt: skip
        axes.set_title(title, loc="left", pad=2)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    panels[-1].set_xlabel("Seconds in the window")
    return figure


def sampling_over_epochs(frames: int, fps: float, T: int, spec: Input, seed: int, clip: int = 0) -> Figure:
    """Which frames of a clip (its row in the training set) each epoch sees, dynamic and static, at their times."""
    figure = Figure(figsize=(COLUMN, 0.75 + 0.26 * EPOCHS))
    panels = figure.subplots(2, sharex=True)
    for axes, rule, color in zip(panels, ("dynamic", "static"), (PALETTE[0], PALETTE[3]), strict=True):
        span = sampling.span(spec.model_copy(update={"sampling": rule}), frames, fps, T)
        generators = [np.random.default_rng([seed, epoch, clip]) for epoch in range(EPOCHS)]  # as video.dataset.Clips
        drawn = [sampling.draw(rule, frames, T, span, generator, spec.short) for generator in generators]
        gap = min(np.diff(np.unique(drawn[0])), default=frames) * 72 * COLUMN / frames  # points, or a little less
        axes.barh(range(1, EPOCHS + 1), frames / fps, height=0.72, color="0.93", lw=0)
        for epoch, indices in enumerate(drawn, 1):
            reach, times = (np.ptp(indices) + 1) / fps, (indices + 0.5) / fps
            axes.barh(epoch, reach, left=indices.min() / fps, height=0.72, color=tint(color, 0.7), lw=0)
            axes.vlines(times, epoch - 0.36, epoch + 0.36, color=tint(color, -0.2), lw=min(1.3, gap / 2))
        title = f"{rule.capitalize()}: {EPOCHS} epochs see {len(np.unique(drawn))} of {frames} frames"
        axes.set_title(title, loc="left", pad=3)
        axes.set(yticks=range(1, EPOCHS + 1), ylim=(EPOCHS + 0.55, 0.45), xlim=(0, frames / fps))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
    panels[1].set_xlabel("Seconds in the clip")
    panels[1].tick_params(axis="x", length=2)
    figure.supylabel("Epoch", fontsize=8)
    return figure


def seen(clips: list[tuple]) -> Figure:
    """The frames that networks saw and, below them, where the networks looked: brighter means more.

    clips: (class, prediction, confidence, source such as "X3D-M, 6 frames", frames uint8 (T, H, W, C)) for each; all or
    none also have maps in 0..1 (T, h, w) at any resolution. Of more than 8 frames, the figure has 8, evenly spaced.
    """
    sheet = [_rows(*clip[4:]) for clip in clips]
    columns = max(6, *(len(rows[0]) for rows in sheet))  # the titles need the width of six
    side, mapped = PAGE / MOST, len(sheet[0]) > 1
    heights = [len(rows) * rows[0].shape[1] / rows[0].shape[2] for rows in sheet]
    height = side * sum(heights) + 0.2 * len(clips)
    figure = Figure(figsize=(side * columns, height + 0.35 * mapped))
    panels = figure.subplots(len(clips), height_ratios=heights, squeeze=False)[:, 0]
    for axes, clip, rows, high in zip(panels, clips, sheet, heights, strict=True):
        tall = high / len(rows)
        for (row, pictures), column in product(enumerate(rows), range(len(rows[0]))):
            extent = (column, column + 0.96, row * tall + 0.96 * tall, row * tall)
            axes.imshow(pictures[column], extent=extent, interpolation="antialiased")
        axes.set(xlim=(0, columns - 0.04), ylim=(high - 0.04 * tall, 0), anchor="W")
        axes.set_title(_title(*clip), loc="left", pad=3)
        axes.set_axis_off()
    if mapped:
        place = {"location": "bottom", "fraction": 0.08 / height, "pad": 0.02, "shrink": 0.4}
        bar = figure.colorbar(ScalarMappable(cmap=HEAT), ax=figure.axes, ticks=[0, 0.5, 1], **place)
        bar.set_label("Evidence for the predicted class, as a share of the clip’s maximum", fontsize=7, labelpad=1)
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
    return figure


def _rows(frames: np.ndarray, maps: np.ndarray | None = None) -> list[np.ndarray]:
    """At most 8 frames and, with maps, the same frames in dim gray, which the maps can only brighten."""
    spread = sampling.spread(len(frames), min(len(frames), MOST))
    frames = frames[spread]
    if maps is None:
        return [frames]
    maps_T1HW = F.interpolate(torch.from_numpy(maps[spread])[:, None], frames.shape[1:3], mode="bilinear")
    gray = DIM * (frames @ LUMA)[..., None] / 255
    return [frames, 1 - (1 - gray) * (1 - HEAT(maps_T1HW[:, 0].numpy())[..., :3])]


def _title(label: str, prediction: str, confidence: float, source: str, frames: np.ndarray, *maps: np.ndarray) -> str:
    right, T = label == prediction, len(frames)
    verdict = f"{'Right' if right else 'Wrong'}: " if maps else ""
    classes = short(label) if right else f"{short(label)} → {short(prediction)}"
    some = f"; {MOST} of {T} frames shown" if T > MOST else ""
    return f"{verdict}{classes}, {100 * confidence:.0f} %   ({source}{some})"


def short(name: str) -> str:
    name = readable(name)
    return name if len(name) <= LONG else name[: LONG - 1].rstrip() + "…"
