"""What the trained networks make of the test clips.

    $ python -m framebudget.evaluate        (dvc repro evaluate)

reads   work/split.csv, work/index.json, work/<model>/<frames>f-s<seed>.pt, and the test clips
        params.yaml             protocol, frames, seeds, trainer.precision, train,
                                datasets.<dataset>.{input, evaluate, train, <model>}
writes  work/predictions.csv    one row for every test clip, model, budget and seed
        work/metrics.json       accuracy by model and budget: the columns of `dvc exp show`
        work/tables/            results, comparisons, classes and reliability, as .csv and as booktabs .tex;
                                provenance.json

A clip is seen in several windows, placed evenly over it, and maybe several squares of each; their logits are averaged
before the softmax. All else is computed from the predictions alone (report/statistics.py).
"""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from framebudget import models, params
from framebudget.console import SPLIT, new_folder, read_csv, sha256, stage, usage, write_csv, write_text
from framebudget.models import weights
from framebudget.models.layers import for_evaluation
from framebudget.models.views import autocast, logits_of
from framebudget.params import Params
from framebudget.provenance import clips_sha256, versions
from framebudget.report import statistics
from framebudget.report.cost import cost
from framebudget.report.tables import latex
from framebudget.report.tracked import log_results
from framebudget.runs import Run, runs_of
from framebudget.video import index
from framebudget.video.dataset import Clips, check, loader
from framebudget.video.transforms import inputs


@stage
def main() -> None:
    p = params.load()
    split = index.joined(read_csv(Path("work/split.csv"), SPLIT))
    check(p.folder, split)
    classes = sorted(split["class"].unique())  # in the order of their labels
    runs = [(model, run) for model in params.MODELS for run in runs_of(p, split)]
    predictions = pd.concat([predict(p, run.rows(split), classes, model, run) for model, run in runs])
    write_csv(predictions, Path("work/predictions.csv"))
    report(p, split, predictions)
    log_results(p, split, predictions)
    forget(runs)


def report(p: Params, split: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """All that follows from the predictions: work/tables and work/metrics.json."""
    results = statistics.summary(predictions, p.data.evaluate.top_k)
    results.insert(2, "crop", [p.input(model).crop for model in results["model"]])
    K = split["class"].nunique()
    results[["parameters_M", "gflops"]] = [
        cost(row.model, K, p.sampled(row.model, row.frames)[0], row.crop) for row in results.itertuples()
    ]
    tables = {
        "results": (results, "Test accuracy at every frame budget; GFLOPs per view at the given crop."),
        "comparisons": (statistics.comparisons(predictions), "Test accuracy of b minus that of a."),
        "classes": (statistics.per_class(predictions), "How the test clips of each class are recognised."),
        "reliability": (statistics.reliability(predictions), "Accuracy of predictions by their confidence."),
    }
    provenance = {"clips_sha256": clips_sha256(split), "versions": versions()}
    with new_folder(Path("work/tables")) as folder:
        for name, (table, caption) in tables.items():
            write_csv(table, folder / f"{name}.csv")
            write_text(folder / f"{name}.tex", latex(table, caption))
        write_text(folder / "provenance.json", json.dumps(provenance, indent=2) + "\n")
    accuracy = {}
    for model, rows in results.groupby("model", sort=False):
        by_budget = {f"{row.frames}{p.unit[0]}": row.accuracy for row in rows.itertuples()}
        accuracy[model] = by_budget if len(p.frames) > 1 else rows["accuracy"].item()  # `frames` is a column itself
    write_text(Path("work/metrics.json"), json.dumps({"accuracy": accuracy}, indent=2) + "\n")


def forget(runs: list[tuple[str, Run]]) -> None:
    """Remove what these trainings kept in work/unfinished. Others may wait there to go on."""
    for model, run in runs:
        trained = sha256(Path("work") / model / f"{run.name}.pt")
        for curve in Path("work/unfinished").glob(f"{model}-{run.name}-*/curve.csv"):
            file = curve.with_name(f"{run.name}.pt")
            if file.exists() and sha256(file) == trained:
                curve.unlink()  # without it, the rest counts as unfinished
                shutil.rmtree(curve.parent)
    with contextlib.suppress(OSError):
        Path("work/unfinished").rmdir()


@torch.inference_mode()
def predict(p: Params, clips: pd.DataFrame, classes: list[str], model: str, run: Run) -> pd.DataFrame:
    """One row for every test clip among these: who says what about it, and a probability for every class."""
    test = clips[clips["subset"] == "test"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    T, input = p.sampled(model, run.budget)
    network = models.BUILD[model](len(classes))
    weights.load(network, Path("work") / model / f"{run.name}.pt")
    network = for_evaluation(network).to(device)
    data = Clips(p.folder, test, T, input, run.seed, p.data.evaluate.views, p.data.evaluate.crops)
    # in one place from the start: small tensors, kept between large ones that are freed, would pin the heap
    probabilities_NK = np.empty((len(test), len(classes)), np.float32)
    batches = loader(data, p.recipe(model).batch_size, p.workers)
    bar = tqdm(batches, desc=f"evaluate {params.MODELS[model]} {run.name}", unit="batch", disable=None)
    for frames_BVTHWC, views, _, positions_B in bar:
        with autocast(p.trainer.precision, device):
            logits_BVK = logits_of(network, inputs(frames_BVTHWC.to(device), views, input.crop))
        probabilities_NK[positions_B] = logits_BVK.float().mean(1).softmax(1).cpu()
    table = test[["clip", "group"]].reset_index(drop=True)
    table.insert(0, "model", model)
    table.insert(1, "frames", run.budget)
    table.insert(2, "seed", run.seed)
    table["label"] = test["class"].to_numpy()
    table["prediction"] = [classes[k] for k in probabilities_NK.argmax(1)]
    return table.join(pd.DataFrame(probabilities_NK, columns=[f"p_{name}" for name in classes]))


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
