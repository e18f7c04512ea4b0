"""Classify every test clip with every trained network, and score.

    $ python -m framebudget.evaluate        (dvc repro evaluate)

reads   work/split.csv, work/index.json, work/<model>/, and the test clips
        params.yaml             protocol, models, frames, seeds, trainer.{precision, threads}, train,
                                datasets.<dataset>.{input, evaluate, train, <model>}
writes  work/predictions.csv    one row for every test clip, model, budget and seed
        work/control_predictions.csv    likewise, of the same networks at other budgets and in other orders of frames
        work/metrics.json       accuracy by model and budget, and the frames that each model needs: the columns
                                of `dvc exp show`
        work/tables/            results, comparisons, needed, controls, classes and reliability, and for motion what
                                sampling allows, as .csv and as booktabs .tex; provenance.json

By default, a network sees one window of each clip, and so no more frames than its budget. With more windows, or several
squares of each, logits are averaged before the softmax. All scores are computed from the predictions alone
(report/scores.py, report/statistics.py).
"""

import json
from pathlib import Path

import pandas as pd

from framebudget.console import new_folder, stage, usage, write_csv, write_text
from framebudget.learning.display import Display
from framebudget.learning.side_by_side import preload, side_by_side
from framebudget.learning.tracking import log_scores
from framebudget.models import weights
from framebudget.report import scores, statistics
from framebudget.report.controls import motion, summary
from framebudget.report.cost import cost
from framebudget.report.tables import latex
from framebudget.sources.motion import ACTIONS
from framebudget.study import Study, on_disk, read_table, versions, write_table
from framebudget.video.dataset import check

PREDICT = "framebudget.learning.prediction:predict"


@stage
def main() -> None:
    study = Study.load()
    trainings = study.trainings()
    preload(PREDICT, trainings)
    check(study.params.folder, study.split)
    clips = {training: len(training.clips("test")) * len(study.params.frames) for training in trainings}
    found = side_by_side(PREDICT, trainings, Display("evaluate", "clip", clips))
    predictions = pd.concat([one.predictions for one in found], ignore_index=True)
    controls = pd.concat([one.controls for one in found], ignore_index=True)
    write_table(predictions, Path("work/predictions.csv"), study.params.unit)
    write_table(controls, Path("work/control_predictions.csv"), study.params.unit)
    tell(study, predictions, [one.milliseconds for one in found], *report(study, predictions, controls))


def report(study: Study, predictions: pd.DataFrame, controls: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Compute work/tables and work/metrics.json from predictions and curves. Returns the table of results, and how many
    frames each model needs, where that is decided."""
    p, K = study.params, len(study.classes)
    rule = p.data.evaluate
    results = statistics.summary(predictions, rule.top_k)
    results.insert(2, "crop", [p.input(model).crop for model in results["model"]])
    frames = {(training.network, training.budget): training.T for training in study.trainings()}
    results[["parameters_M", "gmacs"]] = [
        cost(row.model, K, frames[row.model, row.budget], row.crop) for row in results.itertuples()
    ]
    results["gmacs"] *= rule.views * rule.crops
    curves = pd.concat([read_table(Path("work") / model / "curves.csv") for model in p.models])
    results = results.merge(learned := scores.learned(curves), on=statistics.CONFIGURATION, validate="1:1")
    needed = statistics.frames_needed(predictions, rule.margin, learned)
    tables = {
        "results": (results, "Test accuracy at every frame budget; 10⁹ multiply-adds per clip at the given crop."),
        "comparisons": (
            statistics.comparisons(predictions),
            "Differences of test accuracy, b minus a, with 95% intervals and Holm's p-values.",
        ),
        "needed": (needed, f"The smallest budget that loses at most {100 * rule.margin:g} points."),
        "controls": (summary(controls), "Test accuracy at other budgets and with other orders of frames."),
        "classes": (scores.per_class(predictions), "Precision, recall and F1 of each class."),
        "reliability": (scores.reliability(predictions), "Accuracy of predictions by their confidence."),
    }
    scenes = controls["group"].astype(str).str.fullmatch(r"g\d+").all()  # their numbers tell the periods
    if p.dataset == "motion" and p.protocol == "sound" and study.classes == sorted(ACTIONS) and scenes:
        tables["motion"] = motion(controls, p.data.input), "Test accuracy, and what sampling allows."
    files = {training.network: training.file for training in study.trainings()}
    precision = {network: weights.read(file)["precision"] for network, file in files.items()}
    provenance = {"clips_sha256": study.clips_sha256, "precision": precision, "versions": versions()}
    with new_folder(Path("work/tables")) as folder:
        for name, (table, caption) in tables.items():
            table = on_disk(table, p.unit)
            write_csv(table, folder / f"{name}.csv")
            write_text(folder / f"{name}.tex", latex(table, caption))
        write_text(folder / "provenance.json", json.dumps(provenance, indent=2) + "\n")
    accuracy = {}
    for model, rows in results.groupby("model", sort=False):
        by_budget = {f"{row.budget}{p.unit[0]}": row.accuracy for row in rows.itertuples()}
        accuracy[model] = by_budget if len(p.frames) > 1 else rows["accuracy"].item()  # `frames` has its own column
    answers = needed.dropna(subset="needed").set_index("model")["needed"].astype(int).to_dict()
    metrics = {"accuracy": accuracy, f"{p.unit}_needed": answers}
    write_text(Path("work/metrics.json"), json.dumps(metrics, indent=2) + "\n")
    return results, answers


def tell(
    study: Study,
    predictions: pd.DataFrame,
    milliseconds: list[float],
    results: pd.DataFrame,
    needed: dict[str, int],
) -> None:
    """Log test metrics to MLflow: each training's on its own test clips, and the study's."""
    of_trainings, unit = [], study.params.unit
    for training, took in zip(study.trainings(), milliseconds, strict=True):
        (row,) = scores.scores(training.rows(predictions), study.params.data.evaluate.top_k).to_dict("records")
        measured = {name: row[name] for name in row if name not in scores.TRAINING}
        of_trainings.append((training, measured | {"milliseconds": took}))
    of_study = {f"test_accuracy.{row.model}.{row.budget}": row.accuracy for row in results.itertuples()}
    log_scores(study, of_trainings, of_study | {f"{unit}_needed.{model}": needed[model] for model in needed})


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
