"""Predict every test clip with every trained network, and score.

    $ python -m framebudget.evaluate        (dvc repro evaluate)

reads   work/split.csv, work/index.json, work/<model>/<frames>f-s<seed>.pt, and the test clips
        params.yaml             protocol, models, frames, seeds, trainer.{precision, threads}, train,
                                datasets.<dataset>.{input, evaluate, train, <model>}
writes  work/predictions.csv    one row for every test clip, model, budget and seed
        work/metrics.json       accuracy by model and budget: the columns of `dvc exp show`
        work/tables/            results, comparisons, classes and reliability, as .csv and as booktabs .tex;
                                provenance.json

A network sees several evenly spaced windows of each clip, and optionally several squares of each window. Their logits
are averaged before the softmax. All scores are computed from the predictions alone (report/statistics.py).
"""

import json
from pathlib import Path

import pandas as pd

from framebudget.console import new_folder, stage, usage, write_csv, write_text
from framebudget.learning.display import Display
from framebudget.learning.side_by_side import preload, side_by_side
from framebudget.learning.tracking import log_scores
from framebudget.models import weights
from framebudget.report import statistics
from framebudget.report.cost import cost
from framebudget.report.tables import latex
from framebudget.study import Study, on_disk, versions, write_table
from framebudget.video.dataset import check

PREDICT = "framebudget.learning.prediction:predict"


@stage
def main() -> None:
    study = Study.load()
    trainings = study.trainings()
    preload(PREDICT, trainings)
    check(study.params.folder, study.split)
    clips = {training: len(training.clips("test")) for training in trainings}
    display = Display("evaluate", "clip", clips)
    predictions = pd.concat(side_by_side(PREDICT, trainings, display))
    write_table(predictions, Path("work/predictions.csv"), study.params.unit)
    results = report(study, predictions)
    tell(study, predictions, results)


def report(study: Study, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute work/tables and work/metrics.json from the predictions. Returns the table of results."""
    p, K = study.params, len(study.classes)
    results = statistics.summary(predictions, p.data.evaluate.top_k)
    results.insert(2, "crop", [p.input(model).crop for model in results["model"]])
    frames = {(training.network, training.budget): training.T for training in study.trainings()}
    results[["parameters_M", "gflops"]] = [
        cost(row.model, K, frames[row.model, row.budget], row.crop) for row in results.itertuples()
    ]
    tables = {
        "results": (results, "Test accuracy at every frame budget; GFLOPs per view at the given crop."),
        "comparisons": (statistics.comparisons(predictions), "Test accuracy of b minus that of a."),
        "classes": (statistics.per_class(predictions), "How the test clips of each class are recognized."),
        "reliability": (statistics.reliability(predictions), "Accuracy of predictions by their confidence."),
    }
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
    write_text(Path("work/metrics.json"), json.dumps({"accuracy": accuracy}, indent=2) + "\n")
    return results


def tell(study: Study, predictions: pd.DataFrame, results: pd.DataFrame) -> None:
    """Log test metrics to MLflow: each training's on its own test clips, and the study's table of results."""
    scores = []
    for training in study.trainings():
        (row,) = statistics.scores(training.rows(predictions), study.params.data.evaluate.top_k).to_dict("records")
        scores.append((training, {name: row[name] for name in row if name not in statistics.TRAINING}))
    log_scores(study, scores, {f"{row.model}.{row.budget}": row.accuracy for row in results.itertuples()})


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
