"""One MLflow run for every training."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from pytorch_lightning.loggers import MLFlowLogger

from framebudget.console import write_text
from framebudget.params import Params, top, tracking_uri
from framebudget.runs import Run


def start_run(params: Params, model: str, run: Run, weights: str | None, note: Path) -> MLFlowLogger:
    """A logger whose run is named `<model>-<frames>f-s<seed>` in an experiment named after the data set.

    Its parameters are those of params.yaml that shaped this training; its tags lead back to the DVC experiment.
    weights: sha256 of what the training starts from.
    note: a file that keeps the run's id; if the run it names is there, that one goes on.
    """
    uri = tracking_uri()
    with FileLock(top() / "mlflow.lock"):  # two first runs at once would both make the tables (mlflow#4123)
        client = MlflowClient(uri)
        if client.get_experiment_by_name(params.dataset) is None:
            database = uri.removeprefix("sqlite:///")
            where = Path(database).with_name("mlruns").as_uri() if database != uri else None
            client.create_experiment(params.dataset, artifact_location=where)
    tags = {
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV"),
        "dvc.stage": os.environ.get("DVC_STAGE"),
    }
    run_id = note.read_text() if note.exists() else None
    with contextlib.suppress(MlflowException):
        if run_id and client.get_run(run_id).info.lifecycle_stage == "active":
            return MLFlowLogger(tracking_uri=uri, run_id=run_id)
    logger = MLFlowLogger(
        experiment_name=params.dataset,
        run_name=f"{model}-{run.name}",
        tracking_uri=uri,
        tags={key: value for key, value in tags.items() if value},
    )
    write_text(note, logger.run_id)
    logger.log_hyperparams(
        {"model": model, "frames": run.budget, "seed": run.seed, "fold": run.fold}
        | params.input(model).model_dump()
        | params.recipe(model).model_dump()
        | {"protocol": params.protocol, "precision": params.trainer.precision}
        | {"weights": params.weights(model), "weights_sha256": weights}
    )
    return logger


@contextlib.contextmanager
def system_metrics(logger: MLFlowLogger | None) -> Iterator[None]:
    """Log the use of CPU, memory, disk, network and GPU into the run every ten seconds."""
    if not logger:
        yield
        return
    monitor = SystemMetricsMonitor(logger.run_id, resume_logging=True, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
