"""Draw what the paper shows.

    $ python -m framebudget.figures         (dvc repro figures)

reads   work/split.csv, work/index.json, work/predictions.csv, work/<model>/, and some test clips
        work/tables/            results, needed, controls
        reports/answers.csv     what kept studies say
        params.yaml             protocol, models, frames, seeds, datasets.<dataset>.{input, evaluate, <model>}
writes  work/figures/           one .svg and .png per figure; figures.json lists them, because not every study has all
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from framebudget.console import new_folder, stage, usage, write_text
from framebudget.learning.tracking import log_pictures
from framebudget.models import NETWORKS
from framebudget.params import Input
from framebudget.report import control_plots, diagrams, kept, overview, plots, scores, strips
from framebudget.report.controls import by_frames_per_period
from framebudget.study import Study, Training, read_predictions, read_table
from framebudget.video import sampling, transforms
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
    pairs = {(training.network, training.budget) for training in study.trainings()}
    strip = {pair: strips.strips(examples(study, *pair)) for pair in sorted(pairs)}
    log_pictures(study, Path("work/figures"), lambda training: {
        "confusion": plots.confusion(training.rows(predictions), study.params.unit),
        "strip": strip[training.network, training.budget],
    })  # fmt: skip


def figures(study: Study, predictions: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    p, split = study.params, study.split
    curves = pd.concat([read_table(Path("work") / model / "curves.csv") for model in p.models])
    tables = {name: read_table(Path(f"work/tables/{name}.csv")) for name in ("results", "needed", "controls")}
    plots.use_fonts_of(study.classes)
    largest, answers = max(p.frames), kept.read()

    yield "teaser", teaser(study, predictions, tables, answers)
    yield "answers", overview.cost(answers) if p.dataset == "motion" else overview.answers(answers)
    real = answers[(answers["study"] != "motion") & (answers["seeds"] > 1)]
    if p.dataset == "motion" and real["shuffled"].notna().any():
        yield "kept_controls", control_plots.of_kept(real)
    if split["frames"].nunique() > 1:
        yield "lengths", plots.frames_per_clip(split, p.frames, p.unit)
    yield "sampling", sampled_over_epochs(study)
    for model in p.models:
        training = next(training for training in study.trainings(model) if training.budget == largest)
        yield model, diagrams.network(model, training.T, training.input.crop)
    yield "convolution", diagrams.convolution()
    periodic = p.data.input if Path("work/tables/motion.csv").exists() else None
    yield from of_numbers(predictions, curves, tables, p.unit, periodic)
    if wrong := [mistake(study, row) for row in strips.mistakes(predictions).itertuples()]:
        yield "mistakes", strips.strips(wrong)


def teaser(study: Study, predictions: pd.DataFrame, tables: dict[str, pd.DataFrame], answers: pd.DataFrame) -> Figure:
    """What the smallest, the middle and the largest budget see of one clip, beside the accuracies: those of all kept
    studies, to which the embedded clips are the control, or of this study."""
    p = study.params
    budgets = [p.frames[k] for k in sorted({0, len(p.frames) // 2, len(p.frames) - 1})]
    control = p.dataset == "motion"
    receding = predictions[predictions["label"] == "Recede"]  # alternates between large and small if frames are few
    clip = loses_most(receding if control and len(receding) else predictions)
    axes = strips.teaser(example(study, p.models[0], clip, budgets))
    if control:
        overview.against_frames(axes, answers)
    else:
        by_seed, chance = scores.scores(predictions, 1), 1 / len(study.classes)
        plots.against_budget(axes, tables["results"], by_seed, tables["needed"], chance, p.unit)
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=1 if len(max(labels, key=len)) > 26 else 2)
    return axes.get_figure(root=True)


def loses_most(predictions: pd.DataFrame) -> str:
    """The clip whose accuracy, over networks and seeds, rises most from the smallest to the largest budget."""
    right = predictions["label"] == predictions["prediction"]
    by_budget = right.groupby([predictions["clip"], predictions["budget"]]).mean().unstack()
    return (by_budget.iloc[:, -1] - by_budget.iloc[:, 0]).idxmax()


def example(study: Study, model: str, clip: str, budgets: list[int]) -> list[tuple[str, np.ndarray]]:
    """What a network sees of a test clip: rows of frames, as `strips` takes them."""
    (row,) = study.split[(study.split["subset"] == "test") & (study.split["clip"] == clip)].itertuples()
    first = {training.budget: training for training in reversed(study.trainings(model))}
    name, unit = strips.short(study.split.at[row.Index, "class"]), study.params.unit
    return [(f"{name}, {plots.counted(budget, unit)}", window(first[budget], row)) for budget in budgets]


def of_numbers(
    predictions: pd.DataFrame, curves: pd.DataFrame, tables: dict[str, pd.DataFrame], unit: str, periodic: Input | None
) -> Iterator[tuple[str, Figure]]:
    """The figures that show no clip. tables: results, needed and, if they were tested, controls.

    periodic: how the clips of `motion` were sampled; None for other clips.
    """
    by_seed, classes = scores.scores(predictions, 1), scores.per_class(predictions)
    chance = 1 / len(scores.classes_of(predictions))
    yield "curves", plots.learning_curves(curves, unit)
    yield "accuracy", plots.accuracy(tables["results"], by_seed, tables["needed"], chance, unit)
    if "controls" in tables:
        yield "controls", control_plots.controls(tables["controls"], unit)
    if periodic and predictions["budget"].max() > 1:
        yield "limits", control_plots.sampling_limits(by_frames_per_period(predictions, periodic), periodic)
    yield "classes", plots.recalls(classes, unit)
    yield "confusion", plots.confusion(predictions, unit)


def examples(study: Study, model: str, budget: int) -> list[tuple[str, np.ndarray]]:
    """What a network sees of the first test clip of the first, the middle and the last class."""
    first = study.split[study.split["subset"] == "test"].drop_duplicates("class").sort_values("class")["clip"]
    shown = [first.iloc[k] for k in sorted({0, len(first) // 2, len(first) - 1})]
    return [row for clip in shown for row in example(study, model, clip, [budget])]


def sampled_over_epochs(study: Study) -> Figure:
    """How the first training at the smallest budget samples the training clip of median length."""
    training = min(study.trainings(study.params.models[0]), key=lambda one: (one.budget, one.seed, one.fold or 0))
    clips = training.clips("train").reset_index(drop=True)
    clip = clips.sort_values("frames", kind="stable").iloc[len(clips) // 2]
    return strips.sampling_over_epochs(
        clip["frames"], clip["fps"], training.T, training.input, training.seed, clip.name
    )


def mistake(study: Study, row: tuple) -> tuple[str, np.ndarray]:
    """A row of predictions as `strips` takes it."""
    training = study.tested_on(row.clip, row.model, row.budget, row.seed)
    clip = next(training.clips("test").query("clip == @row.clip").itertuples())
    by = f"{NETWORKS[row.model].name}, {plots.counted(row.budget, study.params.unit)}"
    return strips.title(row.label, row.prediction, row.confidence, by), window(training, clip)


def window(training: Training, clip: tuple) -> np.ndarray:
    """Frames uint8 (T, H, W, C) of evaluation's middle window, cropped, at the clip's own resolution."""
    T, spec = training.T, training.input
    crop = round(min(clip.width, clip.height) * spec.crop / spec.short_side)
    span = sampling.span(spec, clip.frames, clip.fps, T)
    (indices,) = sampling.views(spec.sampling, clip.frames, T, span, 1, spec.short)
    frames_THWC = read_frames(training.params.folder / clip.path, at(clip.shown, clip.first + indices))
    ((top, left),) = transforms.even_view(*frames_THWC.shape[1:3], crop).corners
    return frames_THWC[:, top : top + crop, left : left + crop]


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
