"""What the trained networks make of the test clips.

    $ python -m framebudget.evaluate        (dvc repro evaluate)

reads   work/split.csv, work/packets.json, work/<model>/<frames>f_s<seed>.pt, and the test clips
        params.yaml             protocol, frames, seeds, trainer.precision, train,
                                datasets.<dataset>.{input, evaluate, train, <model>}
writes  work/predictions.csv    one row for every test clip, model, budget and seed
        work/metrics.json       accuracy, top-k accuracy, macro-F1, parameters and GFLOPs by model and budget
        work/tables/            results and classes, as .csv and as booktabs .tex

A clip is seen in several windows, placed evenly over it; their logits are averaged before the softmax.
"""

import json
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from framebudget import models, params
from framebudget.console import read_csv, stage, write_csv, write_text
from framebudget.models import weights
from framebudget.models.layers import for_evaluation
from framebudget.models.views import autocast, logits_of
from framebudget.params import Params
from framebudget.report import tables
from framebudget.report.cost import cost
from framebudget.video import packets
from framebudget.video.dataset import Clips, loader
from framebudget.video.transforms import inputs


@stage
def main() -> None:
    p = params.load()
    split = packets.joined(read_csv(Path("work/split.csv")))
    test = split[split["subset"] == "test"]
    classes = sorted(split["class"].unique())  # in the order of their labels
    runs = [(model, T, seed) for model in params.MODELS for T in p.frames for seed in p.seeds]
    predictions = pd.concat(
        [predict(p, test, classes, *run) for run in tqdm(runs, desc="evaluate", unit="network", disable=None)]
    )
    write_csv(predictions, Path("work/predictions.csv"))

    results = tables.summary(tables.scores(predictions, p.data.evaluate.top_k))
    results.insert(2, "crop", [p.input(model).crop for model in results["model"]])
    costs = [
        cost(row.model, len(classes), p.sampled(row.model, row.frames)[0], row.crop) for row in results.itertuples()
    ]
    results[["parameters_M", "gflops"]] = costs
    write_table(results, "results", "Test accuracy at every frame budget; GFLOPs per view at the given crop.")
    write_table(tables.recall(predictions), "classes", "Share of each class's test clips that are recognised.")
    metrics = {
        model: {str(row.pop("frames")): row for row in rows.drop(columns=["model", "crop", "seeds"]).to_dict("records")}
        for model, rows in results.drop(columns="accuracy_std").groupby("model", sort=False)
    }
    write_text(Path("work/metrics.json"), json.dumps(metrics, indent=2) + "\n")


@torch.inference_mode()
def predict(p: Params, test: pd.DataFrame, classes: list[str], model: str, budget: int, seed: int) -> pd.DataFrame:
    """One row for every test clip: who says what about it, and a probability for every class."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    T, input = p.sampled(model, budget)
    network = models.BUILD[model](len(classes))
    weights.load(network, Path("work") / model / f"{budget}f_s{seed}.pt")
    network = for_evaluation(network).to(device)
    clips = Clips(p.folder, test, T, input, seed, p.data.evaluate.views, p.data.evaluate.crops)
    probabilities = []
    for frames_BVTHWC, views, _, _ in loader(clips, p.recipe(model).batch_size, p.workers):
        with autocast(p.trainer.precision, device):
            logits_BVK = logits_of(network, inputs(frames_BVTHWC.to(device), views, input.crop))
        probabilities.append(logits_BVK.float().mean(1).softmax(1).cpu())
    probabilities_NK = torch.cat(probabilities).numpy()
    table = test[["clip", "group"]].reset_index(drop=True)
    table.insert(0, "model", model)
    table.insert(1, "frames", budget)
    table.insert(2, "seed", seed)
    table["label"] = test["class"].to_numpy()
    table["prediction"] = [classes[k] for k in probabilities_NK.argmax(1)]
    return table.join(pd.DataFrame(probabilities_NK, columns=[f"p_{name}" for name in classes]))


def write_table(table: pd.DataFrame, name: str, caption: str) -> None:
    write_csv(table, Path(f"work/tables/{name}.csv"))
    write_text(Path(f"work/tables/{name}.tex"), tables.latex(table, caption))


if __name__ == "__main__":
    main()
