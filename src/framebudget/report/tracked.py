"""What a finished study has to say, told to MLflow: to the run of every training, and to the study's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient

from framebudget.learning.tracking import going_on, runs_that_made, study_run
from framebudget.params import MODELS, Params
from framebudget.report import plots, statistics
from framebudget.runs import Run, runs_of

Strips = Callable[[int], Figure]
DPI = {"dpi": 200}


def log_results(p: Params, split: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Test metrics: a training's, of its own test clips; the study's, as the paper's first table has them."""
    k = p.data.evaluate.top_k
    with going_on("the test metrics"):
        client, study = study_run(p, split)
        for run_id, _, rows in _trainings(client, p, split, predictions):
            for name, value in statistics.scores(rows, k).iloc[0].drop(statistics.TRAINING).items():
                client.log_metric(run_id, f"test_{name}", value)
        for row in statistics.summary(predictions, k).itertuples():
            client.log_metric(study, f"test_accuracy.{row.model}.{row.frames}", row.accuracy)
        client.set_terminated(study)


def log_pictures(p: Params, split: pd.DataFrame, predictions: pd.DataFrame, folder: Path, strips: Strips) -> None:
    """The paper's figures, to the study; to every training, its confusion, and what it sees of three clips.

    folder: of the figures. strips: draws what a budget sees.
    """
    with going_on("the pictures"):
        client, study = study_run(p, split)
        for path in sorted(folder.glob("*.png")):
            client.log_artifact(study, str(path), "figures")
        for run_id, run, rows in _trainings(client, p, split, predictions):
            client.log_figure(run_id, plots.confusion(rows, p.unit), "confusion.png", save_kwargs=DPI)
            client.log_figure(run_id, strips(run.budget), "strip.png", save_kwargs=DPI)


def _trainings(
    client: MlflowClient, p: Params, split: pd.DataFrame, predictions: pd.DataFrame
) -> Iterator[tuple[str, Run, pd.DataFrame]]:
    """The MLflow runs of this study's networks, wherever they were trained, with what they predicted."""
    for model in MODELS:
        for run in runs_of(p, split):
            clips = run.rows(split)
            said = predictions[predictions["clip"].isin(clips.loc[clips["subset"] == "test", "clip"])]
            said = said[(said["model"] == model) & (said["frames"] == run.budget) & (said["seed"] == run.seed)]
            for run_id in runs_that_made(client, p, Path("work") / model / f"{run.name}.pt"):
                yield run_id, run, said
