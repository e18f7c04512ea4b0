"""MLflow: a run for every study, and nested in it a run for every training.

The study's run is tagged with a hash of everything that determines its trainings. All stages of a `dvc repro`, resumed
or not, find the run by this hash. Each DVC experiment gets its own run, because `dvc.exp_name` is a tag of every run.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.utils import mlflow_tags

from framebudget.console import redacted, sha256
from framebudget.learning.mlflow_store import (
    REFUSALS,
    StoreError,
    artifacts,
    connect,
    database,
    refusal,
    tolerant,
    tracking_uri,
)
from framebudget.repository import top
from framebudget.study import PACKAGE, Study, Training, read_table, source_files, versions

STUDY, TRAINING = "framebudget.study", "framebudget.training"  # tags to find runs by
TRAINED = "framebudget.trained_sha256"
CURVE = "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"
OF_COMMIT = mlflow_tags.MLFLOW_GIT_COMMIT, mlflow_tags.MLFLOW_RUN_NOTE  # a commit must not split a resumed study


def study_run(study: Study) -> tuple[MlflowClient, str]:
    """The client and the id of this study's run, in an experiment named after the data set. Creates a missing run.

    Raises StoreError.
    """
    p, tags = study.params, _tags()
    facts = p.model_dump(exclude={"datasets", "workers", "launcher", "engine", "side_by_side", "per_gpu", "store"})
    facts["datasets"] = {p.dataset: p.data.model_dump(exclude={"evaluate"})}
    chosen = {key: value for key, value in tags.items() if key not in OF_COMMIT}  # the code counts instead
    parts = [facts, chosen, *map(sha256, source_files())]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    name = tags.get("dvc.exp_name", f"{'-'.join(map(str, p.frames))} {p.unit}, {digest[:7]}")
    try:
        # processes that start together in this repository would each create the tables (mlflow#4123) and the study
        with FileLock(top() / "mlflow.lock"):
            client = connect()
            place = _experiment(client, p.dataset)
            sought = {"filter_string": f"tags.`{STUDY}` = '{digest}'", "order_by": ["start_time", "run_id"]}
            if found := client.search_runs([place], **sought):
                return client, found[0].info.run_id
            run_id = client.create_run(place, tags=tags | {STUDY: digest}, run_name=name).info.run_id
            first = client.search_runs([place], **sought)[0].info.run_id
            if first != run_id:  # another machine was faster
                client.delete_run(run_id)
            else:
                _describe(client, run_id, facts, study, study.split)
            return client, first
    except REFUSALS as error:
        raise refusal(error) from None


@contextlib.contextmanager
def running(study: Study) -> Iterator[None]:
    """While its trainings run, this study's run is running; then it has finished or failed."""
    status = "FAILED"
    with tolerant("the state of the study"):
        client, run_id = study_run(study)
        client.update_run(run_id, "RUNNING")
    try:
        yield
        status = "FINISHED"
    finally:
        with tolerant("the state of the study"):
            client, run_id = study_run(study)
            client.set_terminated(run_id, status)


def _experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment; creates it if missing. A local store keeps pictures and models beside the database."""
    if (found := client.get_experiment_by_name(name)) is None:
        file = database()
        try:
            client.create_experiment(name, artifact_location=artifacts(file) if file else None)
        except MlflowException:
            if client.get_experiment_by_name(name) is None:  # else another machine was faster
                raise
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage == "deleted":
        way_out = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise StoreError(
            f"MLflow at {redacted(tracking_uri())}: the experiment {name} was deleted; restore it: {way_out}"
        )
    return found.experiment_id


def training_run(training: Training) -> str:
    """The id of the run `<network>-<frames>f-s<seed>`, nested in its study's run, with the parameters that shaped it.

    If the run of an interrupted training still exists, the training resumes in it.
    """
    client, study = study_run(training.study)
    p, place, digest = training.params, client.get_run(study).info.experiment_id, training.folder.name
    sought = f"tags.`{TRAINING}` = '{digest}' and tags.`{mlflow_tags.MLFLOW_PARENT_RUN_ID}` = '{study}'"
    if found := client.search_runs([place], sought):
        run = found[0]
        client.update_run(run.info.run_id, "RUNNING")
    else:
        tags = _tags() | {TRAINING: digest, mlflow_tags.MLFLOW_PARENT_RUN_ID: study}
        tags["dvc.stage"] = os.environ.get("DVC_STAGE", "")
        run = client.create_run(place, tags=tags, run_name=f"{training.network}-{training.name}")
    run_id = run.info.run_id
    if not run.data.params:  # new, or interrupted before it was described
        facts = {"model": training.network, p.unit: training.budget, "frames": training.T, "protocol": p.protocol}
        facts |= {name: getattr(training, name) for name in ("seed", "fold", "weights", "weights_sha256")}
        sections = {"trainer": p.trainer, "input": training.input, "train": training.recipe}
        facts |= {name: section.model_dump() for name, section in sections.items()}
        _describe(client, run_id, facts, training.study, training.clips())
    return run_id


def log_finished(training: Training) -> None:
    """Log a finished training to a run of its own in this study, unless it has one: its curve, and its model if new."""
    file = training.folder / f"{training.name}.pt"
    with tolerant(training.title):
        client, study = study_run(training.study)
        made = runs_that_made(client, file, training.params.dataset)
        if any(run.data.tags.get(mlflow_tags.MLFLOW_PARENT_RUN_ID) == study for run in made):
            return
        run_id, curve = training_run(training), read_table(training.folder / "curve.csv")
        client.log_batch(run_id, of_curve(curve.to_dict("records")))
        if made:
            client.set_tag(run_id, TRAINED, sha256(file))
        else:
            log_model(run_id, training, file, curve["val_accuracy"].max())
        client.set_terminated(run_id)


def of_curve(rows: Iterable[Mapping]) -> list[Metric]:
    """The metrics of these epochs, at their epochs."""
    now = int(time.time() * 1000)
    return [Metric(name, float(row[name]), now, row["epoch"]) for row in rows for name in CURVE]


def _tags() -> dict[str, str]:
    """Where the parameters of a run come from, and the hashes (as in dvc.lock) of the files its trainings read."""
    experiment, baseline = os.environ.get("DVC_EXP_NAME"), os.environ.get("DVC_EXP_BASELINE_REV")
    head = _commit()
    way = f"`dvc exp apply {experiment}`" if experiment else "`dvc repro`" + (f" at commit `{head}`" if head else "")
    tags = {
        mlflow_tags.MLFLOW_SOURCE_NAME: "framebudget",
        mlflow_tags.MLFLOW_GIT_COMMIT: head,
        mlflow_tags.MLFLOW_RUN_NOTE: f"{way} restores this run's parameters and results in the working tree.",
        "dvc.exp_name": experiment,
        "dvc.baseline_rev": baseline,
    }
    tags |= {f"version.{package}": number for package, number in versions().items()}
    for path in map(Path, ("work/split.csv", "work/index.json", "work/weights.json")):
        if path.exists():
            tags[f"dvc.lock.{path}"] = hashlib.md5(path.read_bytes()).hexdigest()
    return {key: value for key, value in tags.items() if value}


def _commit() -> str:
    """The commit that this folder comes from, or "". A repository around an unpacked ZIP does not count."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ("git", "rev-parse", "HEAD", "HEAD:./dvc.yaml")
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    return ""


def _describe(client: MlflowClient, run_id: str, facts: dict, study: Study, clips: pd.DataFrame) -> None:
    """Log parameters, as `section.key`, and rows of the split as an MLflow dataset.

    The dataset's digest is the beginning of the hash printed in the paper.
    """
    mlflow.log_params(pd.json_normalize(facts).iloc[0].to_dict(), run_id=run_id)
    each = clips.drop_duplicates("clip")
    profile = {"clips": len(each), "groups": each["group"].nunique(), "classes": each["class"].nunique()}
    if clips["fold"].nunique() == 1:
        profile |= each["subset"].value_counts().sort_index().to_dict()
    source = json.dumps({"uri": study.params.archive or str(study.params.folder)})
    dataset = Dataset(study.params.dataset, study.clips_sha256[:36], "local", source, profile=json.dumps(profile))
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, "training")])])


def log_scores(study: Study, scores: Iterable[tuple[Training, dict[str, float]]], of_study: dict[str, float]) -> None:
    """Log test metrics: each training's and the study's."""
    with tolerant("the test metrics"):
        client, study_id = study_run(study)
        for training, values in scores:
            for run in own_runs(client, study_id, training):
                numbers = {f"test_{name}": value for name, value in values.items()}
                mlflow.log_metrics(numbers, run_id=run.info.run_id)
        mlflow.log_metrics(of_study, run_id=study_id)
        client.set_terminated(study_id)


def log_pictures(study: Study, folder: Path, draw: Callable[[Training], dict[str, Figure]]) -> None:
    """Log the paper's figures, in `folder`, to the study's run, and those that `draw` returns to each training's."""
    with tolerant("the pictures"):
        client, study_id = study_run(study)
        for path in sorted(folder.glob("*.png")):
            client.log_artifact(study_id, str(path), "figures")
        for training in study.trainings():
            for run in own_runs(client, study_id, training):
                for name, figure in draw(training).items():
                    client.log_figure(run.info.run_id, figure, f"{name}.png", save_kwargs={"dpi": 200})


def own_runs(client: MlflowClient, study_id: str, training: Training) -> list[Run]:
    """The run of this training in this study. A training that DVC or the store kept from another study gets one."""

    def found() -> list[Run]:
        made = runs_that_made(client, training.file, training.params.dataset)
        return [run for run in made if run.data.tags.get(mlflow_tags.MLFLOW_PARENT_RUN_ID) == study_id]

    if not (own := found()) and (training.folder / "curve.csv").exists():
        log_finished(training)
        own = found()
    return own


def runs_that_made(client: MlflowClient, file: Path, dataset: str) -> list[Run]:
    """The runs that produced these weights: several if studies share the training, none if not in this store."""
    experiment = client.get_experiment_by_name(dataset)
    return client.search_runs([experiment.experiment_id], f"tags.`{TRAINED}` = '{sha256(file)}'")


def log_model(run_id: str, training: Training, file: Path, accuracy: float) -> None:
    """Log the weights as a model that MLflow can serve, and register it as the next version of `framebudget-<network>`.

    Among the versions with the same clips for training and validation, the one with the best validation accuracy gets
    the alias best-<data set>. If several are equally good, it is the first.
    """
    name, T, crop = f"framebudget-{training.network}", training.T, training.input.crop
    client = MlflowClient()
    frames = Schema([TensorSpec(np.dtype(np.uint8), (-1, T, -1, -1, 3))])
    probabilities = Schema([ColSpec("double", label) for label in training.study.classes])
    with mlflow.start_run(run_id, log_system_metrics=False):
        logged = mlflow.pyfunc.log_model(
            name=training.network,
            loader_module="framebudget.commands.serving",
            data_path=str(file),
            code_paths=[str(PACKAGE)],
            signature=ModelSignature(frames, probabilities),
            input_example=np.full((1, T, crop, crop, 3), 127, np.uint8),
            pip_requirements=[f"{name}=={version(name)}" for name in (*versions(), "ruamel.yaml")],
        )
    client.set_tag(run_id, TRAINED, sha256(file))
    known = training.clips().query("subset != 'test'")[["clip", "sha256", "subset"]]
    clips = hashlib.sha256(known.to_csv(index=False).encode()).hexdigest()[:36]
    tags = {"clips": clips, "frames": str(T), "val_accuracy": f"{accuracy:.6f}"}
    with contextlib.suppress(MlflowException):  # it exists already
        client.create_registered_model(name)
    client.create_model_version(name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id)
    rivals = client.search_model_versions(f"name = '{name}' and tag.clips = '{clips}'")
    best = max(rivals, key=lambda version: (float(version.tags["val_accuracy"]), -int(version.version)))
    client.set_registered_model_alias(name, f"best-{training.params.dataset}", best.version)
