"""Clips as strips of frames: which frames each budget and epoch sees, and mistakes of networks."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from framebudget.params import Input
from framebudget.report.plots import COLUMN, LONG, PAGE, readable, tint
from framebudget.video import sampling

MOST = 16  # frames in a row
DARK = (0.25, 0.25, 0.25)
FEWEST = 6  # frames that a row has room for, so that a single frame is not as wide as the page
EPOCHS = 5  # of a training, to show how it samples


def mistakes(predictions: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """The n most confident wrong predictions, at most one per group, with a column `confidence`; maybe no rows.

    Ties are broken by the name of the clip, then by the order of `predictions`.
    """
    rows = predictions.assign(confidence=predictions.filter(regex="^p_").max(axis=1))
    rows = rows.sort_values(["confidence", "clip"], ascending=[False, True], kind="stable")
    return rows[rows["label"] != rows["prediction"]].drop_duplicates("group").head(n)


def strips(rows: list[tuple[str, np.ndarray]]) -> Figure:
    """Rows of frames: (title, frames uint8 (T, H, W, C))."""
    heights = [tall(frames) for _, frames in rows]
    figure = Figure(figsize=(PAGE, PAGE * sum(heights) + 0.22 * len(rows)))
    for axes, row in zip(figure.subplots(len(rows), height_ratios=heights, squeeze=False)[:, 0], rows, strict=True):
        row_of_frames(axes, *row)
    return figure


def teaser(rows: list[tuple[str, np.ndarray]]) -> Axes:
    """Rows as in `strips`, and empty axes to their right."""
    wide, heights = 0.58 * PAGE, [tall(frames) for _, frames in rows]
    figure = Figure(figsize=(PAGE, max(wide * sum(heights) + 0.22 * len(rows), 2.6)))
    left, right = figure.subfigures(1, 2, width_ratios=[wide, PAGE - wide])
    for axes, row in zip(left.subplots(len(rows), height_ratios=heights, squeeze=False)[:, 0], rows, strict=True):
        row_of_frames(axes, *row)
    return right.subplots()


def tall(frames_THWC: np.ndarray) -> float:
    """The height of a row of these frames, as a share of its width."""
    T, H, W = frames_THWC.shape[:3]
    return H / W / max(min(T, MOST), FEWEST)


def row_of_frames(axes: Axes, title: str, frames_THWC: np.ndarray) -> None:
    """Frames side by side: all, or 16 of them, evenly spaced."""
    T = len(frames_THWC)
    shown_THWC = frames_THWC[sampling.spread(T, min(T, MOST))]
    high = shown_THWC.shape[1] / shown_THWC.shape[2]
    for place, frame in enumerate(shown_THWC):
        axes.imshow(frame, extent=(place, place + 0.96, 0.96 * high, 0), interpolation="antialiased")
    axes.set(xlim=(0, max(len(shown_THWC), FEWEST) - 0.04), ylim=(0.96 * high, 0), anchor="W")
    axes.set_title(title + (f" ({MOST} shown)" if T > MOST else ""), loc="left", pad=3)
    axes.set_axis_off()


def sampling_over_epochs(frames: int, fps: float, T: int, spec: Input, seed: int, clip: int = 0) -> Figure:
    """Which frames of a clip (its row in the training set) each epoch sees, by the study's rule and static, at their
    times."""
    figure = Figure(figsize=(COLUMN, 0.75 + 0.26 * EPOCHS))
    panels = figure.subplots(2, sharex=True)
    for axes, rule in zip(panels, ("dynamic" if spec.sampling == "static" else spec.sampling, "static"), strict=True):
        span = sampling.span(spec.model_copy(update={"sampling": rule}), frames, fps, T)
        generators = [np.random.default_rng([seed, epoch, clip]) for epoch in range(EPOCHS)]  # as video.dataset.Clips
        drawn = [sampling.draw(rule, frames, T, span, generator, spec.short) for generator in generators]
        gap = min(np.diff(np.unique(drawn[0])), default=frames) * 72 * COLUMN / frames  # points, or a little less
        axes.barh(range(1, EPOCHS + 1), frames / fps, height=0.72, color="0.93", lw=0)
        for epoch, indices in enumerate(drawn, 1):
            reach, times = (np.ptp(indices) + 1) / fps, (indices + 0.5) / fps
            axes.barh(epoch, reach, left=indices.min() / fps, height=0.72, color=tint(DARK, 0.7), lw=0)
            axes.vlines(times, epoch - 0.36, epoch + 0.36, color=DARK, lw=min(1.3, gap / 2))
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


def title(label: str, prediction: str, confidence: float, source: str) -> str:
    """Of a prediction. source: such as "X3D-M, 6 frames"."""
    classes = short(label) if label == prediction else f"{short(label)} → {short(prediction)}"
    return f"{classes}, {100 * confidence:.0f}%   ({source})"


def short(name: str) -> str:
    name = readable(name)
    return name if len(name) <= LONG else name[: LONG - 1].rstrip() + "…"
