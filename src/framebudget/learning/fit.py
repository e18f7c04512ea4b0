"""One training, run by Lightning."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import nn

from framebudget.console import UserError, sha256
from framebudget.learning import store
from framebudget.learning.callbacks import LastEpoch, Report
from framebudget.learning.data import ClipData
from framebudget.learning.display import Tell
from framebudget.learning.logger import PatientLogger
from framebudget.learning.mlflow_store import tolerant
from framebudget.learning.runtime import prepare
from framebudget.learning.task import Classification
from framebudget.learning.tracking import log_finished, log_model, training_run
from framebudget.models import NETWORKS, weights
from framebudget.processor import rank
from framebudget.sources.weights import local
from framebudget.study import Training, write_table


def fit(training: Training, tell: Tell) -> None:
    """Train, or resume after the last saved epoch, until the store holds the training."""
    prepare(training.seed, training.params.trainer.threads)
    with store.lock(training) if rank() == 0 else nullcontext():
        if not store.holds(training):
            _fit(training, tell)
        elif rank() == 0 and training.params.engine == "local":  # another study trained it while this one waited
            log_finished(training)


def _fit(training: Training, tell: Tell) -> None:
    p, network = training.params, NETWORKS[training.network]
    doubly = p.protocol == "published" and network.softmax
    task = Classification(initial(training), training.recipe, doubly, p.trainer.cuda_graphs)
    task.try_out()  # fail before an MLflow run or another rank starts
    resume = LastEpoch(training.folder / "last.ckpt", p.trainer.save_every)
    with clear(p.trainer.timeout):
        trainer = trainer_of(training, [resume, Report(tell)])
        data = ClipData(training)
        data.check_shares(trainer.num_devices * trainer.num_nodes)
        if trainer.is_global_zero and p.engine == "local":  # on a cluster, cluster.py logs it when it has ended
            with tolerant(training.title):
                trainer.logger = PatientLogger(training_run(training), resume.curve)
        trainer.fit(task, datamodule=data, ckpt_path=resume.found, weights_only=True)
    if trainer.is_global_zero:
        keep(training, task, trainer.logger)


def initial(training: Training) -> nn.Module:
    """The network with its start weights. Raises UserError if the given weights have changed since `fetch`."""
    options, network = training.params.trainer, NETWORKS[training.network]
    file = local(training.weights, network.zoo) if training.weights else None
    if training.weights_sha256 != (file and sha256(file)):
        raise UserError(
            f"{training.weights}: not the weights that work/weights.json names; run fetch again: dvc repro -f fetch"
        )
    module = network.build(len(training.study.classes)).to(memory_format=getattr(torch, training.memory_format))
    if file:
        try:
            weights.load(module, file, network.head)
        except weights.WeightsError as error:
            again = "" if str(file) == training.weights else "; to download it again: delete it, and dvc repro -f fetch"
            raise UserError(f"{error}{again}") from None
    if options.compile:
        torch.compiler.reset()  # or earlier trainings affect what is compiled, and a resumed one differs
        module.compile(dynamic=False)
    return module


def trainer_of(training: Training, callbacks: list[Callback]) -> pl.Trainer:
    p = training.params
    options = p.trainer.model_dump(include={"devices", "num_nodes", "strategy"}) | {"precision": training.precision}
    if p.trainer.shared:
        options["strategy"] = DDPStrategy(timeout=timedelta(seconds=p.trainer.timeout))
    if SLURMEnvironment.detect():
        options["plugins"] = [slurm() if p.trainer.shared else LightningEnvironment()]
    return pl.Trainer(
        max_epochs=training.recipe.epochs, accelerator="cuda" if torch.cuda.is_available() else "cpu",
        use_distributed_sampler=False,  # our sampler divides the clips itself
        enable_progress_bar=False,
        deterministic=True, num_sanity_val_steps=0, enable_model_summary=False, logger=False, callbacks=callbacks,
        **options,
    )  # fmt: skip


def slurm() -> SLURMEnvironment:
    """Raises UserError if the job's tasks cannot be ranks of a training."""
    try:
        return SLURMEnvironment(auto_requeue=False)  # requeueing would load the state of one training into the next
    except RuntimeError as error:
        raise UserError(f"SLURM: {error}") from None


def keep(training: Training, task: Classification, logger: PatientLogger | None) -> None:
    """Write the weights of the best epoch and the curve, and mark the training as finished."""
    task.network.load_state_dict(task.best)
    file, network, seed = training.folder / f"{training.name}.pt", training.network, training.seed
    classes, spec = training.study.classes, training.input.model_dump()
    facts = {"model": network, "frames": training.T, "seed": seed, "classes": classes, "input": spec}
    weights.save(file, task.network, **facts, precision=training.precision)
    if logger:
        with tolerant(f"the weights of {training.title}"):
            log_model(logger.run_id, training, file, task.best_epoch["val_accuracy"])
    key = {"model": network, "budget": training.budget, "seed": seed, "fold": training.fold or 0}
    curve = pd.DataFrame([key | row for row in task.curve])
    write_table(curve, training.folder / "curve.csv", training.params.unit)
    store.seal(training)


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
            f"above. To resume after the last saved epoch, run the same command again. ({error})"
        ) from None
