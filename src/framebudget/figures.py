"""Draw what the paper shows.

    $ python -m framebudget.figures         (dvc repro figures)

reads   work/split.csv, work/index.json, work/predictions.csv, work/<model>/, and some test clips
        work/tables/            results, needed, controls
        reports/answers.csv     what kept studies say
        params.yaml             protocol, models, frames, seeds, datasets.<dataset>.{input, evaluate, <model>}
writes  work/figures/           one .pdf and .png per figure; figures.json lists them, because not every study has all
"""

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from framebudget.console import new_folder, stage, usage, write_text
from framebudget.learning.tracking import log_pictures
from framebudget.models import NETWORKS, weights
from framebudget.params import Input
from framebudget.report import control_plots, diagrams, kept, names, overview, plots, scores, strips
from framebudget.report.attention import attention
from framebudget.report.controls import by_frames_per_period
from framebudget.study import Study, Training, read_predictions, read_table
from framebudget.video import sampling, transforms
from framebudget.video.dataset import Clips
from framebudget.video.reader import read_frames
from framebudget.video.timeline import at


@stage
def main() -> None:
    study = Study.load()
    predictions = read_predictions(Path("work/predictions.csv"))
    drawn = []
    with new_folder(Path("work/figures")) as folder:
        for name, figure in tqdm(figures(study, predictions), desc="draw", unit="figure", disable=None):
            plots.save(figure, folder, name)
            drawn.append(name)
        write_text(folder / "figures.json", json.dumps(drawn, indent=2) + "\n")
    log_pictures(study, Path("work/figures"), lambda training: {
        "confusion": plots.confusion(training.rows(predictions), study.params.unit),
        "strip": strips.strips(examples(study, [training.budget]), study.params.unit),
    })  # fmt: skip


def figures(study: Study, predictions: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    p, split = study.params, study.split
    curves = pd.concat([read_table(Path("work") / model / "curves.csv") for model in p.models])
    tables = {name: read_table(Path(f"work/tables/{name}.csv")) for name in ("results", "needed", "controls")}
    matplotlib.rcParams["font.family"] = [*plots.FAMILY, *names.other_fonts(split["class"].unique())]
    results, largest = tables["results"], max(p.frames)

    yield "answers", overview.answers(kept.read())
    yield "clips", plots.clips_per_class(split)
    if split["frames"].nunique() > 1:
        yield "lengths", plots.frames_per_clip(split, p.frames, p.unit)
    yield "strips", strips.strips(examples(study, p.frames), p.unit)
    yield "sampling", sampled_over_epochs(study)
    for model in p.models:
        training = next(training for training in study.trainings(model) if training.budget == largest)
        yield model, diagrams.network(model, training.T, training.input.crop)
    yield "convolution", diagrams.convolution()
    periodic = p.data.input if Path("work/tables/motion.csv").exists() else None
    yield from of_numbers(predictions, curves, tables, p.unit, periodic)
    if wrong := [seen(study, row, mapped=False) for row in strips.mistakes(predictions).itertuples()]:
        yield "mistakes", strips.seen(wrong)
    best = results[results["budget"] == largest].sort_values("accuracy", kind="stable").iloc[-1]["model"]
    chosen = strips.right_and_wrong(predictions, best, largest)
    yield "attention", strips.seen([seen(study, row, mapped=True) for row in chosen.itertuples()])


def of_numbers(
    predictions: pd.DataFrame, curves: pd.DataFrame, tables: dict[str, pd.DataFrame], unit: str, periodic: Input | None
) -> Iterator[tuple[str, Figure]]:
    """The figures that show no clip. tables: results, needed and, if they were tested, controls.

    periodic: how the clips of `motion` were sampled; None for other clips.
    """
    by_seed, classes = scores.scores(predictions, 1), scores.per_class(predictions)
    chance = 1 / len(scores.classes_of(predictions))
    yield "curves", plots.learning_curves(curves, unit)
    yield "frames", plots.accuracy_against_frames(tables["results"], by_seed, tables["needed"], chance, unit)
    if unit == "frames":  # with seconds, in the published protocol, all budgets cost the same
        yield "cost", plots.accuracy_against_cost(tables["results"], by_seed)
    if "controls" in tables:
        yield "controls", control_plots.controls(tables["controls"], unit)
    if periodic and predictions["budget"].max() > 1:
        yield "limits", control_plots.sampling_limits(by_frames_per_period(predictions, periodic), periodic)
    yield "classes", plots.recalls(classes, unit)
    yield "confusion", plots.confusion(predictions, unit)
    yield "reliability", plots.reliability(scores.reliability(predictions), unit)


def examples(study: Study, budgets: list[int]) -> list:
    """One test clip each of the first, the middle and the last class, in the form that `strips.strips` takes."""
    test = study.split[study.split["subset"] == "test"].drop_duplicates("class").sort_values("class")
    picked = test.iloc[sorted({0, len(test) // 2, len(test) - 1})]
    first = {training.budget: training for training in reversed(study.trainings(study.params.models[0]))}
    return [
        (strips.short(name), clip.fps, {budget: window(first[budget], clip) for budget in budgets})
        for name, clip in zip(picked["class"], picked.itertuples(), strict=True)
    ]


def sampled_over_epochs(study: Study) -> Figure:
    """How the first training at the smallest budget samples the training clip of median length."""
    training = min(study.trainings(study.params.models[0]), key=lambda one: (one.budget, one.seed, one.fold or 0))
    clips = training.clips("train").reset_index(drop=True)
    clip = clips.sort_values("frames", kind="stable").iloc[len(clips) // 2]
    return strips.sampling_over_epochs(
        clip["frames"], clip["fps"], training.T, training.input, training.seed, clip.name
    )


def seen(study: Study, row: tuple, mapped: bool) -> tuple:
    """A row of predictions in the form that `strips.seen` takes. mapped: with a map of the evidence for it."""
    training = study.tested_on(row.clip, row.model, row.budget, row.seed)
    clip = training.clips("test").query("clip == @row.clip")
    _, frames = window(training, *clip.itertuples())
    by = f"{NETWORKS[row.model].name}, {row.budget} {study.params.unit}"
    maps = [evidence(training, clip, row.prediction)] if mapped else []
    return row.label, row.prediction, row.confidence, by, frames, *maps


def window(training: Training, clip: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Indices and frames uint8 (T, H, W, C) of evaluation's middle window, cropped, at the clip's own resolution."""
    T, spec = training.T, training.input
    crop = round(min(clip.width, clip.height) * spec.crop / spec.short_side)
    (indices,) = sampling.views(clip.frames, T, sampling.span(spec, clip.frames, clip.fps, T), 1, spec.short)
    frames_THWC = read_frames(training.params.folder / clip.path, at(clip.shown, clip.first + indices))
    ((top, left),) = transforms.even_view(*frames_THWC.shape[1:3], crop).corners
    return indices, frames_THWC[:, top : top + crop, left : left + crop]


def evidence(training: Training, clip: pd.DataFrame, prediction: str) -> np.ndarray:
    """Where in the clip the network sees this class: (T, crop, crop) in 0..1. clip: its row of the split."""
    torch.set_num_threads(training.params.trainer.threads)
    classes, spec = training.study.classes, training.input
    network = NETWORKS[training.network].build(len(classes))
    weights.load(network, training.file)
    frames_VTHWC, view, _, _ = Clips(training.params.folder, clip, training.T, spec, training.seed, views=1)[0, 0]
    clips_BVCTHW = transforms.inputs(frames_VTHWC[None], [view], spec.crop)
    return attention(network, clips_BVCTHW[:, 0], torch.tensor([classes.index(prediction)]))[0].numpy()


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
