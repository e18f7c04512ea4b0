"""Lightning's MLflow logger, for a server that may go away."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from framebudget.learning.store import REFUSALS, tolerant, tracking_uri, warn

PAUSE = 30.0  # seconds until a server that did not answer is asked again
AT_ONCE = 1000  # metrics that MLflow takes in one request


class PatientLogger(MLFlowLogger):
    """Training continues without the server; metrics wait here and are sent, with their own times, when it is back."""

    def __init__(self, run_id: str):
        super().__init__(tracking_uri=tracking_uri(), run_id=run_id)
        self.study = self.experiment.get_run(run_id).data.tags[MLFLOW_PARENT_RUN_ID]
        self.waiting: list[Metric] = []
        self.ask_again = 0.0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        now = int(time.time() * 1000)
        self.waiting += [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        if time.monotonic() >= self.ask_again:
            self.send()

    def send(self) -> None:
        try:
            while self.waiting:
                self.experiment.log_batch(self.run_id, metrics=self.waiting[:AT_ONCE])
                del self.waiting[:AT_ONCE]
        except REFUSALS as error:
            if not self.ask_again:
                warn(f"does not answer; training goes on, and sends its metrics when MLflow is back ({error})")
            self.ask_again = time.monotonic() + PAUSE

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.send()
        try:
            for run_id in (self.run_id, self.study):
                self.experiment.set_terminated(run_id, "FAILED" if status == "failed" else "FINISHED")
        except REFUSALS as error:
            warn(
                f"does not answer; run {self.run_id} stays open there, without {len(self.waiting)} metrics: they are "
                f"in work/<model>/curves.csv ({error})"
            )


@contextlib.contextmanager
def system_metrics(logger: PatientLogger | None) -> Iterator[None]:
    """Log the use of CPU, memory, disk, network and GPU into the run every ten seconds."""
    monitor = None
    if logger:
        with tolerant("the use of the machine"):
            monitor = SystemMetricsMonitor(logger.run_id, resume_logging=True, tracking_uri=tracking_uri())
            monitor.start()
    try:
        yield
    finally:
        if monitor:
            monitor.finish()
