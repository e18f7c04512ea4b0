"""Fine-tune one network at every frame budget and seed.

    $ python -m framebudget.train x3d_m         (dvc repro train_x3d)
    $ python -m framebudget.train slowfast_r50  (dvc repro train_slowfast)

reads   work/split.csv, work/packets.json, and the clips that they name
        params.yaml             frames, seeds, train, datasets.<dataset>.{input, train, <model>}
writes  work/<model>/curves.csv             model, frames, seed, epoch, losses, accuracies, learning rate
        work/<model>/<frames>f_s<seed>.pt   the weights of the epoch with the best validation accuracy
        mlflow.db                           one run for each

The same parameters give the same bytes on one machine, however many workers decode.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from framebudget import models, params
from framebudget.console import new_folder, read_csv, stage, write_csv
from framebudget.learning.data import ClipData
from framebudget.learning.runtime import prepare
from framebudget.learning.task import Classification
from framebudget.learning.tracking import start_run
from framebudget.models import weights
from framebudget.params import Params
from framebudget.video import packets


@stage
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", choices=params.MODELS)
    model = parser.parse_args().model
    p = params.load()
    split = packets.joined(read_csv(Path("work/split.csv")))
    with new_folder(Path("work") / model) as folder:
        curves = [train(p, split, model, T, seed, folder) for T in p.frames for seed in p.seeds]
        write_csv(pd.concat(curves), folder / "curves.csv")


def train(p: Params, split: pd.DataFrame, model: str, T: int, seed: int, folder: Path) -> pd.DataFrame:
    """One training at T frames. Writes <T>f_s<seed>.pt into the folder and returns the learning curve."""
    recipe, input = p.recipe(model), p.input(model)
    prepare(seed)
    classes = sorted(split["class"].unique())  # in the order of their labels
    network = models.BUILD[model](len(classes))
    if recipe.weights:
        weights.load(network, Path(recipe.weights), models.HEAD[model])

    task = Classification(network, recipe)
    logger = start_run(p, model, T, seed)
    with tempfile.TemporaryDirectory() as scratch:
        best = ModelCheckpoint(scratch, monitor="val_accuracy", mode="max", save_weights_only=True)
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator="auto",
            devices=1,
            deterministic=True,
            use_distributed_sampler=False,  # ours divides the clips itself
            logger=logger,
            callbacks=[
                EarlyStopping("val_accuracy", patience=recipe.patience, mode="max"),
                best,
                Progress(f"{params.MODELS[model]}, {T} frames, seed {seed}"),
            ],
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
        trainer.fit(task, datamodule=ClipData(p, split, model, T, seed))
        if trainer.interrupted:
            raise KeyboardInterrupt
        task.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    facts = {"model": model, "frames": T, "seed": seed, "classes": classes, "input": input.model_dump()}
    weights.save(folder / f"{T}f_s{seed}.pt", network, **facts)
    curve = pd.DataFrame(task.curve)
    curve.insert(0, "model", model)
    curve.insert(1, "frames", T)
    curve.insert(2, "seed", seed)
    return curve


class Progress(TQDMProgressBar):
    """On a terminal, one bar an epoch; at the end, one line that says what came out."""

    def __init__(self, title: str):
        super().__init__(refresh_rate=int(sys.stderr.isatty()))
        self.title = title

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, *args) -> dict:
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}

    def on_train_epoch_start(self, trainer: pl.Trainer, *args) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.title}: epoch {trainer.current_epoch + 1}")

    def on_train_end(self, trainer: pl.Trainer, task: Classification) -> None:
        super().on_train_end(trainer, task)
        best = max(task.curve, key=lambda row: row["val_accuracy"])
        print(
            f"{self.title}: validation accuracy {best['val_accuracy']:.3f} "
            f"after epoch {best['epoch'] + 1} of {len(task.curve)}"
        )


if __name__ == "__main__":
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="pytorchvideo")
    main()
