"""Draw what the paper shows.

    $ python -m framebudget.figures         (dvc repro figures)

reads   work/split.csv, work/predictions.csv, work/tables/{results, reliability}.csv, work/<model>/, and some test clips
        params.yaml             protocol, frames, seeds, datasets.<dataset>.{input, evaluate, <model>}
writes  work/figures/           one .pdf and .png a figure; figures.json names them: a study has those that it can have
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from framebudget import models, params
from framebudget.console import PREDICTIONS, SPLIT, new_folder, read_csv, stage, usage, write_text
from framebudget.models import weights
from framebudget.params import MODELS, Params
from framebudget.report import diagrams, plots, statistics, strips
from framebudget.report.attention import attention
from framebudget.report.tracked import log_pictures
from framebudget.runs import runs_of
from framebudget.video import sampling, transforms
from framebudget.video.dataset import Clips
from framebudget.video.reader import read_frames


@stage
def main() -> None:
    p = params.load()
    split = read_csv(Path("work/split.csv"), SPLIT)
    predictions = read_csv(Path("work/predictions.csv"), PREDICTIONS)
    drawn = []
    with new_folder(Path("work/figures")) as folder:
        for name, figure in tqdm(figures(p, split, predictions), desc="draw", unit="figure", disable=None):
            plots.save(figure, folder, name)
            drawn.append(name)
        write_text(folder / "figures.json", json.dumps(drawn, indent=2) + "\n")
    log_pictures(p, split, predictions, Path("work/figures"), lambda T: strips.strips(examples(p, split, [T]), p.unit))


def figures(p: Params, split: pd.DataFrame, predictions: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    curves = pd.concat([pd.read_csv(Path("work") / model / "curves.csv") for model in MODELS])
    results, reliability = (pd.read_csv(f"work/tables/{name}.csv") for name in ("results", "reliability"))
    plots.use_fonts(split["class"].unique())
    scores = statistics.scores(predictions, p.data.evaluate.top_k)

    yield "clips", plots.clips_per_class(split)
    if split["frames"].nunique() > 1:
        yield "lengths", plots.frames_per_clip(split, p.frames, p.unit)
    yield "strips", strips.strips(examples(p, split, p.frames), p.unit)
    yield "sampling", sampled_over_epochs(p, split)
    for model in MODELS:
        yield model, diagrams.network(model, p.sampled(model, max(p.frames))[0], p.input(model).crop)
    yield "convolution", diagrams.convolution()
    yield "curves", plots.learning_curves(curves, p.unit)
    yield "frames", plots.accuracy_against_frames(results, scores, 1 / split["class"].nunique(), p.unit)
    if p.protocol == "sound":  # as published, all budgets cost the same
        yield "gflops", plots.accuracy_against_gflops(results)
    yield "confusion", plots.confusion(predictions, p.unit)
    yield "reliability", plots.reliability(reliability, p.unit)
    wrong = [(*said(p, row), seen(p, split, row)) for row in strips.mistakes(predictions).itertuples()]
    if wrong:
        yield "mistakes", strips.confident_mistakes(wrong)
    best = results[results["frames"] == max(p.frames)].sort_values("accuracy", kind="stable").iloc[-1]
    chosen = strips.right_and_wrong(predictions, best["model"], best["frames"])
    rows = [(*said(p, row), seen(p, split, row), looked_at(p, split, row)) for row in chosen.itertuples()]
    yield "attention", strips.attention_strips(rows)


def examples(p: Params, split: pd.DataFrame, budgets: list[int]) -> list:
    """One test clip of each of three classes, the first, the middle and the last, as `strips.strips` takes them."""
    test = split[split["subset"] == "test"].drop_duplicates("class").sort_values("class")
    picked = sorted({0, len(test) // 2, len(test) - 1})
    return [
        (strips.short(name), clip.fps, {budget: window(p, clip, "x3d_m", budget) for budget in budgets})
        for name, clip in zip(test["class"].iloc[picked], test.iloc[picked].itertuples(), strict=True)
    ]


def sampled_over_epochs(p: Params, split: pd.DataFrame) -> Figure:
    """Of the training clip of median length, for the first training at the smallest budget."""
    run = min(runs_of(p, split))
    clips = run.rows(split)
    clips = clips[clips["subset"] == "train"]
    place = int(np.argsort(clips["frames"], kind="stable").iloc[len(clips) // 2])
    T, input = p.sampled("x3d_m", run.budget)
    clip = clips.iloc[place]
    return diagrams.sampling_over_epochs(clip["frames"], clip["fps"], T, input, run.seed, clip=place)


def said(p: Params, row: tuple) -> tuple[str, str, float, str]:
    """Of a row of predictions: class, prediction, confidence, and who said it."""
    return row.label, row.prediction, row.confidence, f"{MODELS[row.model]}, {row.frames} {p.unit}"


def seen(p: Params, split: pd.DataFrame, row: tuple) -> np.ndarray:
    """What the network of a row of predictions saw of its clip."""
    clip = next(split[split["clip"] == row.clip].itertuples())
    return window(p, clip, row.model, row.frames)[1]


def window(p: Params, clip: tuple, model: str, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and frames uint8 (T, H, W, C) of evaluation's middle window, cropped, at the clip's own resolution."""
    T, input = p.sampled(model, budget)
    crop = round(min(clip.width, clip.height) * input.crop / input.short_side)
    (indices,) = sampling.views(clip.frames, T, input.span(clip.frames, clip.fps, T), 1, input.short)
    frames_THWC = read_frames(p.folder / clip.path, indices)
    ((top, left),) = transforms.even_view(*frames_THWC.shape[1:3], crop).corners
    return indices, frames_THWC[:, top : top + crop, left : left + crop]


def looked_at(p: Params, split: pd.DataFrame, row: tuple) -> np.ndarray:
    """Where the network of a row of predictions saw its prediction, (T, crop, crop) in 0..1."""
    classes = sorted(split["class"].unique())
    clip = split[(split["clip"] == row.clip) & (split["subset"] == "test")].assign(frame_index=None)
    fold = clip["fold"].item()
    T, input = p.sampled(row.model, row.frames)
    (run,) = (run for run in runs_of(p, split) if run[:2] == (row.frames, row.seed) and run.fold in (None, fold))
    network = models.BUILD[row.model](len(classes))
    weights.load(network, Path("work") / row.model / f"{run.name}.pt")
    frames_VTHWC, view, _, _ = Clips(p.folder, clip, T, input, row.seed, views=1)[0, 0]
    clips_BVCTHW = transforms.inputs(frames_VTHWC[None], [view], input.crop)
    return attention(network, clips_BVCTHW[:, 0], torch.tensor([classes.index(row.prediction)]))[0].numpy()


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
