"""Lightning's MLflow logger. Training continues while the server is down."""

import time
from collections.abc import Iterable, Mapping

from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from framebudget.learning.mlflow_store import REFUSALS, tracking_uri, warn
from framebudget.learning.tracking import CURVE, of_curve

PAUSE = 30.0  # seconds before retrying a server that did not answer


class PatientLogger(MLFlowLogger):
    """Training continues without the server. Metrics wait here and are sent, with their own times, when it is back.

    Also logs the use of CPU, memory, disk, network and GPU every ten seconds. curve: the epochs before a training was
    interrupted. Those that its run lacks are logged, too.
    """

    def __init__(self, run_id: str, curve: Iterable[Mapping] = ()):
        super().__init__(tracking_uri=tracking_uri(), run_id=run_id)
        known = {metric.step for metric in self.experiment.get_metric_history(run_id, CURVE[0])} if curve else set()
        self.waiting = of_curve(row for row in curve if row["epoch"] not in known)
        self.ask_again = 0.0
        self.monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri())
        self.monitor.start()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """step: as Lightning counts; the curves are logged at their epochs instead."""
        now = int(time.time() * 1000)
        epoch = int(metrics.get("epoch", step or 0))
        self.waiting += [Metric(name, float(value), now, epoch) for name, value in metrics.items() if name != "epoch"]
        if time.monotonic() >= self.ask_again:
            self.send()

    def send(self) -> None:
        try:
            self.experiment.log_batch(self.run_id, metrics=self.waiting)
            self.waiting.clear()
            self.ask_again = 0.0
        except REFUSALS as error:
            if not self.ask_again:
                warn(f"does not answer; training continues, and sends its metrics when MLflow is back ({error})")
            self.ask_again = time.monotonic() + PAUSE

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self.monitor.finish()
        self.send()
        try:
            self.experiment.set_terminated(self.run_id, "FAILED" if status == "failed" else "FINISHED")
        except REFUSALS as error:
            warn(
                f"does not answer; run {self.run_id} stays open there, without {len(self.waiting)} metrics: they are "
                f"in work/<model>/curves.csv ({error})"
            )
