"""Clips as strips of frames: what budgets see of them, what networks mistake, and where they look.

The figures are saved by `plots.save`. Names of classes are given as the tables have them, but to `strips`.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from framebudget.report.plots import PAGE, readable
from framebudget.report.statistics import classes_of
from framebudget.video.sampling import spread

SHOWN = 8  # frames of a clip at most, and as many fill the width of a page
NAME = 24  # letters of a class at most, so that two fit above six frames
HEAT = colormaps["inferno"]  # the more, the brighter: in colour, in grey, and to colour-blind eyes
DIM = 0.45  # of a picture's brightness is left where a network looks at nothing
LUMA = 0.299, 0.587, 0.114  # brightness of red, green and blue, by ITU-R BT.601


def mistakes(predictions: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """The n most confident wrong predictions of all runs, at most one a clip, with a column `confidence`.

    Of equally confident ones, the first by the name of the clip, then as `predictions` has them. No mistakes: no rows.
    """
    rows = _most_confident_first(predictions)
    return rows[rows["label"] != rows["prediction"]].drop_duplicates("clip").head(n).reset_index(drop=True)


def right_and_wrong(predictions: pd.DataFrame, model: str, frames: int) -> pd.DataFrame:
    """The most confident right prediction of a model at a budget and the most confident wrong one, if there is any.

    With a column `confidence`, in this order. Raises ValueError if the model has no predictions at this budget.
    """
    rows = predictions[(predictions["model"] == model) & (predictions["frames"] == frames)]
    if rows.empty:
        raise ValueError(f"no predictions of {model} at {frames} frames")
    rows = _most_confident_first(rows)
    right = rows["label"] == rows["prediction"]
    return pd.concat([rows[right].head(1), rows[~right].head(1)], ignore_index=True)


def _most_confident_first(predictions: pd.DataFrame) -> pd.DataFrame:
    confidence = predictions[[f"p_{name}" for name in classes_of(predictions)]].max(axis=1)
    rows = predictions.assign(confidence=confidence)
    return rows.sort_values(["confidence", "clip"], ascending=[False, True], kind="stable")


def strips(clips: list[tuple[str, float, dict[int, tuple[np.ndarray, np.ndarray]]]], unit: str) -> Figure:
    """The frames that each budget, counted in `unit`, sees, at the times they are taken.

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
            yticklabels=[f"{budget} {unit}" for budget in reversed(seen)],
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


def confident_mistakes(clips: list[tuple[str, str, float, str, np.ndarray]]) -> Figure:
    """What networks are sure of, wrongly: "true class → predicted class, confidence", and the frames they saw.

    clips: (class, prediction, confidence, run such as "X3D-M, 6 frames", frames uint8 (T, H, W, C)), one for every
    clip. Of more than 8 frames, 8 are shown, evenly.
    """
    return _sheet([(_title(*said, len(frames)), [_shown(frames)]) for *said, frames in clips])


def attention_strips(clips: list[tuple[str, str, float, str, np.ndarray, np.ndarray]]) -> Figure:
    """The frames that networks saw and, below them, where in them they looked: the brighter, the more.

    clips: as for `confident_mistakes`, and then maps in 0..1 (T, h, w) of the predicted class over the same frames, at
    any resolution. Raises ValueError if there are not as many maps as frames.
    """
    sheet = []
    for label, prediction, confidence, run, frames, maps in clips:
        if len(maps) != len(frames):
            raise ValueError(f"{label}, {run}: {len(maps)} maps for {len(frames)} frames")
        verdict = "Right" if label == prediction else "Wrong"
        title = f"{verdict}: {_title(label, prediction, confidence, run, len(frames))}"
        sheet.append((title, [_shown(frames), _shown(_lit(frames, maps))]))
    figure = _sheet(sheet)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.35)
    bar = figure.colorbar(
        ScalarMappable(cmap=HEAT), ax=figure.axes, location="bottom", fraction=0.08 / height, pad=0.02, shrink=0.4
    )
    bar.set_label("Evidence for the predicted class, as a share of the clip’s maximum", fontsize=7, labelpad=1)
    bar.set_ticks([0, 0.5, 1])
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    return figure


def _lit(frames: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Grey, dimmed pictures in 0..1 (T, H, W, 3), which the maps light up: never darker than without."""
    maps_T1HW = F.interpolate(torch.from_numpy(maps)[:, None], frames.shape[1:3], mode="bilinear")
    grey = DIM * (frames @ LUMA)[..., None] / 255
    return 1 - (1 - grey) * (1 - HEAT(maps_T1HW[:, 0].numpy())[..., :3])


def _title(label: str, prediction: str, confidence: float, run: str, T: int) -> str:
    names = short(label) if label == prediction else f"{short(label)} → {short(prediction)}"
    some = f"; {SHOWN} of {T} frames shown" if T > SHOWN else ""
    return f"{names}, {100 * confidence:.0f} %   ({run}{some})"


def short(name: str) -> str:
    name = readable(name)
    return name if len(name) <= NAME else name[: NAME - 1].rstrip() + "…"


def _shown(pictures: np.ndarray) -> np.ndarray:
    T = len(pictures)
    return pictures[spread(T, min(T, SHOWN))]


def _sheet(clips: list[tuple[str, list[np.ndarray]]]) -> Figure:
    """Clips one below the other: a title, and rows of pictures (T, H, W, C) of one size."""
    columns = max(6, *(len(rows[0]) for _, rows in clips))  # the titles need the width of six
    side = PAGE / SHOWN
    heights = [len(rows) * rows[0].shape[1] / rows[0].shape[2] for _, rows in clips]
    figure = Figure(figsize=(side * columns, side * sum(heights) + 0.2 * len(clips)))
    panels = figure.subplots(len(clips), height_ratios=heights, squeeze=False)[:, 0]
    for axes, (title, rows), height in zip(panels, clips, heights, strict=True):
        tall = height / len(rows)
        for row, pictures in enumerate(rows):
            for column, picture in enumerate(pictures):
                extent = (column, column + 0.96, row * tall + 0.96 * tall, row * tall)
                axes.imshow(picture, extent=extent, interpolation="antialiased")
        axes.set(xlim=(0, columns - 0.04), ylim=(height - 0.04 * tall, 0), anchor="W")
        axes.set_title(title, loc="left", pad=3)
        axes.set_axis_off()
    return figure
