"""One training, run by Lightning."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import nn

from framebudget.console import UserError, sha256
from framebudget.learning.callbacks import LastEpoch, Progress
from framebudget.learning.data import ClipData
from framebudget.learning.logger import PatientLogger
from framebudget.learning.runtime import prepare
from framebudget.learning.task import Classification
from framebudget.learning.tracking import log_model, tolerant, training_run
from framebudget.models import NETWORKS, weights
from framebudget.sources.weights import local
from framebudget.study import Training, write_table


def fit(training: Training) -> None:
    """Train, or resume after the last full epoch, until the training's folder has its weights and curve.csv."""
    p, folder, network = training.params, training.folder, NETWORKS[training.network]
    if (folder / "curve.csv").exists() and (folder / f"{training.name}.pt").exists():
        return
    prepare(training.seed)
    title = f"{network.name} {training.name}"
    task = Classification(initial(training), training.recipe, p.protocol == "published" and network.softmax)
    task.try_out()  # fail before an MLflow run or another rank starts
    resume = LastEpoch(folder / "last.ckpt")
    with clear(p.trainer.timeout):
        trainer = trainer_of(training, [resume, Progress(title)])
        data = ClipData(training)
        data.check_shares(trainer.num_devices * trainer.num_nodes)
        if trainer.is_global_zero:
            with tolerant(title):
                trainer.logger = PatientLogger(training_run(training, folder / "mlflow_run"))
        trainer.fit(task, datamodule=data, ckpt_path=resume.found, weights_only=True)
    if trainer.is_global_zero:
        accuracy, epoch = task.best_epoch["val_accuracy"], task.best_epoch["epoch"] + 1
        print(f"{title}: validation accuracy {accuracy:.3f} after epoch {epoch} of {len(task.curve)}")
        keep(training, task, trainer.logger)
        resume.path.unlink()


def initial(training: Training) -> nn.Module:
    """The network with its start weights. Raises UserError if the given weights have changed since `fetch`."""
    options, network = training.params.trainer, NETWORKS[training.network]
    file = local(training.weights, network.zoo) if training.weights else None
    if training.weights_sha256 != (file and sha256(file)):
        raise UserError(
            f"{training.weights}: not the weights that work/weights.json names; run fetch again: dvc repro -f fetch"
        )
    module = network.build(len(training.study.classes)).to(memory_format=getattr(torch, options.memory_format))
    if file:
        weights.load(module, file, network.head)
    if options.compile:
        torch.compiler.reset()  # or earlier trainings affect what is compiled, and a resumed one differs
        module.compile(dynamic=False)
    return module


def trainer_of(training: Training, callbacks: list[Callback]) -> pl.Trainer:
    p = training.params
    options = p.trainer.model_dump(include={"devices", "num_nodes", "strategy", "precision"})
    if p.trainer.strategy == "ddp" or (p.trainer.devices, p.trainer.num_nodes) != (1, 1):
        options["strategy"] = DDPStrategy(timeout=timedelta(seconds=p.trainer.timeout))
    if SLURMEnvironment.detect():  # requeueing would load the state of one training into the next
        options["plugins"] = [SLURMEnvironment(auto_requeue=False)]
    return pl.Trainer(
        max_epochs=training.recipe.epochs, gradient_clip_val=training.recipe.gradient_clip, accelerator="auto",
        use_distributed_sampler=False,  # our sampler divides the clips itself
        deterministic=True, num_sanity_val_steps=0, enable_model_summary=False, logger=False, callbacks=callbacks,
        **options,
    )  # fmt: skip


def keep(training: Training, task: Classification, logger: PatientLogger | None) -> None:
    """Write the weights of the best epoch, then the curve, which marks the training as complete."""
    task.network.load_state_dict(task.best)
    file, network, seed = training.folder / f"{training.name}.pt", training.network, training.seed
    classes, spec = training.study.classes, training.input.model_dump()
    weights.save(file, task.network, model=network, frames=training.T, seed=seed, classes=classes, input=spec)
    if logger:
        with tolerant(f"the weights of {network} {training.name}"):
            log_model(logger.run_id, training, file, task.best_epoch["val_accuracy"])
    key = {"model": network, "budget": training.budget, "seed": seed, "fold": training.fold or 0}
    curve = pd.DataFrame([key | row for row in task.curve])
    write_table(curve, training.folder / "curve.csv", training.params.unit)


@contextmanager
def clear(timeout: int) -> Iterator[None]:
    """Turn errors of Lightning and gloo into messages. After SIGTERM, exit with 143, not with Lightning's 0."""
    try:
        yield
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from None
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        raise UserError(
            f"another rank has died, or has not answered for {timeout} s (trainer.timeout); its message, if any, is "
            f"above. To resume after the last full epoch, run the same command again. ({error})"
        ) from None
