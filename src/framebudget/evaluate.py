"""Predict every test clip with every trained network, and score.

    $ python -m framebudget.evaluate        (dvc repro evaluate)

reads   work/split.csv, work/index.json, work/<model>/<frames>f-s<seed>.pt, and the test clips
        params.yaml             protocol, models, frames, seeds, trainer.precision, train,
                                datasets.<dataset>.{input, evaluate, train, <model>}
writes  work/predictions.csv    one row for every test clip, model, budget and seed
        work/metrics.json       accuracy by model and budget: the columns of `dvc exp show`
        work/tables/            results, comparisons, classes and reliability, as .csv and as booktabs .tex;
                                provenance.json

A network sees several evenly spaced windows of each clip, and optionally several squares of each window. Their logits
are averaged before the softmax. All scores are computed from the predictions alone (report/statistics.py).
"""

import contextlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from framebudget.console import new_folder, sha256, stage, usage, write_csv, write_text
from framebudget.learning.tracking import log_scores
from framebudget.models import NETWORKS, weights
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay
from framebudget.models.views import autocast, logits_of
from framebudget.report import statistics
from framebudget.report.cost import cost
from framebudget.report.tables import latex
from framebudget.study import Study, Training, on_disk, versions, write_table
from framebudget.video.dataset import Clips, check, loader
from framebudget.video.transforms import inputs


@stage
def main() -> None:
    study = Study.load()
    check(study.params.folder, study.split)
    trainings = study.trainings()
    predictions = pd.concat([predict(training) for training in trainings])
    write_table(predictions, Path("work/predictions.csv"), study.params.unit)
    results = report(study, predictions)
    tell(study, predictions, results)
    forget(trainings)


@torch.inference_mode()
def predict(training: Training) -> pd.DataFrame:
    """One row for every test clip: its label, the network's prediction, and a probability for every class."""
    study, p, test = training.study, training.params, training.clips("test")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = NETWORKS[training.network]
    module = network.build(len(study.classes))
    weights.load(module, training.file)
    replay = Replay(for_evaluation(module.to(device)))
    rule = p.data.evaluate
    data = Clips(p.folder, test, training.T, training.input, training.seed, rule.views, rule.crops)
    # allocated once: small tensors that are kept between large ones that are freed would fragment the heap
    probabilities_NK = np.empty((len(test), len(study.classes)), np.float32)
    batches = loader(data, training.recipe.batch_size, p.workers)
    bar = tqdm(batches, desc=f"evaluate {network.name} {training.name}", unit="batch", disable=None)
    for frames_BVTHWC, views, _, positions_B in bar:
        with autocast(p.trainer.precision, device):
            logits_BVK = logits_of(replay, inputs(frames_BVTHWC.to(device), views, training.input.crop))
        probabilities_NK[positions_B] = logits_BVK.float().mean(1).softmax(1).cpu()
    table = test[["clip", "group"]].reset_index(drop=True)
    table.insert(0, "model", training.network)
    table.insert(1, "budget", training.budget)
    table.insert(2, "seed", training.seed)
    table["label"] = test["class"].to_numpy()
    table["prediction"] = [study.classes[k] for k in probabilities_NK.argmax(1)]
    return table.join(pd.DataFrame(probabilities_NK, columns=[f"p_{name}" for name in study.classes]))


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
    provenance = {"clips_sha256": study.clips_sha256, "versions": versions()}
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


def forget(trainings: Iterable[Training]) -> None:
    """Remove these trainings from work/unfinished. Others there may still be resumed."""
    for training in trainings:
        trained = sha256(training.file)
        for curve in Path("work/unfinished").glob(f"{training.network}-{training.name}-*/curve.csv"):
            file = curve.with_name(f"{training.name}.pt")
            if file.exists() and sha256(file) == trained:
                curve.unlink()  # without it, the rest counts as unfinished
                shutil.rmtree(curve.parent)
    with contextlib.suppress(OSError):
        Path("work/unfinished").rmdir()


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
