"""Keep the state of a training after every epoch, report its progress, and tell MLflow."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from framebudget.console import UserError
from framebudget.learning.tracking import REFUSALS, tracking_uri, warn
from framebudget.models import weights

PAUSE = 30.0  # seconds until a server that did not answer is asked again


class LastEpoch(Checkpoint):
    """Keep the state after the last full epoch, to resume from, in one file that is replaced as a whole."""

    KEYS = frozenset({
        "pytorch-lightning_version", "epoch", "global_step", "loops", "state_dict", "optimizer_states", "lr_schedulers",
        "curve", "best",
    })  # fmt: skip

    def __init__(self, path: Path):
        self.path, self.found = path, str(path) if path.exists() else None
        try:
            if self.found and (missing := self.KEYS - weights.unpickled(path).keys()):
                raise UserError(f"{path}: not the state of a training, {', '.join(sorted(missing))} missing")
        except UserError as error:
            raise UserError(f"{error}; rm -r {path.parent}, and this training begins again") from None

    def on_train_epoch_end(self, trainer: pl.Trainer, *args) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.path)


class Progress(TQDMProgressBar):
    """On a terminal, one bar an epoch."""

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


class PatientLogger(MLFlowLogger):
    """Training continues without the server; metrics wait here until it is back, each with its own time.

    Every ten seconds, the use of CPU, memory, disk, network and GPU is logged, too.
    """

    def __init__(self, run_id: str):
        super().__init__(tracking_uri=tracking_uri(), run_id=run_id)
        self.study = self.experiment.get_run(run_id).data.tags[MLFLOW_PARENT_RUN_ID]
        self.waiting: list[Metric] = []
        self.ask_again = 0.0
        self.monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri())
        self.monitor.start()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self.waiting += [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        if time.monotonic() >= self.ask_again:
            self.send()

    def send(self) -> None:
        try:
            self.experiment.log_batch(self.run_id, metrics=self.waiting)
            self.waiting.clear()
        except REFUSALS as error:
            if not self.ask_again:
                warn(f"does not answer; training goes on, and what it measures follows when it is back ({error})")
            self.ask_again = time.monotonic() + PAUSE

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.monitor.finish()
        self.send()
        try:
            for run_id in (self.run_id, self.study):
                self.experiment.set_terminated(run_id, "FAILED" if status == "failed" else "FINISHED")
        except REFUSALS as error:
            lost = f"{len(self.waiting)} metrics short: they are in work/<model>/curves.csv"
            warn(f"does not answer; run {self.run_id} is left open there, {lost} ({error})")
