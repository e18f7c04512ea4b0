"""MLflow: a run for every study, and nested in it one for every training.

A tag of the study's run is a hash of what determines its trainings: by it, all stages of a `dvc repro` find the run and
log to it, and so does a resumed one. A DVC experiment has a run of its own: `dvc.exp_name` is a tag of every run.
"""

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow.entities import Dataset, DatasetInput, InputTag, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)

from framebudget.console import sha256, write_text
from framebudget.learning.store import REFUSALS, StoreError, knock, refused, tolerant, tracking_uri
from framebudget.params import top
from framebudget.study import PACKAGE, Study, Training, versions

STUDY, TRAINED = "framebudget.study", "framebudget.trained_sha256"  # tags that runs are found by


def commit() -> str | None:
    """The commit that is checked out; None outside of a repository, and where there is no git."""
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None


def study_run(study: Study) -> tuple[MlflowClient, str]:
    """The store, and in it the id of this study's run, in an experiment named after the data set.

    Raises StoreError if it does not answer, or cannot be used.
    """
    p, uri = study.params, tracking_uri()
    facts = p.model_dump(exclude={"datasets", "workers", "launcher"}) | {
        "datasets": {p.dataset: p.data.model_dump(exclude={"evaluate"})}
    }
    names = {
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV") or commit(),
    }
    inputs = [facts, names, *_inputs().values()]
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    name = names["dvc.exp_name"] or f"{'-'.join(map(str, p.frames))} {p.unit}, {digest[:7]}"
    knock(uri)
    try:
        # first runs that start at once in this repository would each make the tables (mlflow#4123), and the study
        with FileLock(top() / "mlflow.lock"):
            client = MlflowClient(uri)
            place = [_experiment(client, p.dataset, uri)]
            sought = {"filter_string": f"tags.`{STUDY}` = '{digest}'", "order_by": ["start_time", "run_id"]}
            if found := client.search_runs(place, **sought, max_results=1):
                return client, found[0].info.run_id
            run_id = client.create_run(place[0], tags=_tags(name) | {STUDY: digest}, run_name=name).info.run_id
            first = client.search_runs(place, **sought, max_results=1)[0].info.run_id
            if first != run_id:  # another machine was faster
                client.delete_run(run_id)
                return client, first
            _log_params(client, run_id, facts)
            _log_clips(client, run_id, study, study.split)
    except REFUSALS as error:
        raise StoreError(refused(uri, error)) from None
    return client, run_id


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Its id. Pictures and models of a local store lie beside it."""
    database = uri.removeprefix("sqlite:///")
    where = Path(database).with_name("mlruns").as_uri() if database != uri else None
    if client.get_experiment_by_name(name) is None:
        with contextlib.suppress(MlflowException):  # another machine was faster
            client.create_experiment(name, artifact_location=where)
    return client.get_experiment_by_name(name).experiment_id


def training_run(training: Training, note: Path) -> str:
    """The id of the run `<network>-<frames>f-s<seed>`, in that of its study, with the parameters that shaped it.

    note: a file that keeps the run's id; if the run it names is there, the training resumes in it.
    """
    client, study = study_run(training.study)
    run_id = note.read_text() if note.exists() else None
    with contextlib.suppress(MlflowException):
        if run_id and client.get_run(run_id).info.lifecycle_stage == "active":
            client.update_run(run_id, "RUNNING")
            return run_id
    name = f"{training.network}-{training.name}"
    tags = _tags(name) | {MLFLOW_PARENT_RUN_ID: study, "dvc.stage": os.environ.get("DVC_STAGE", "")}
    run_id = client.create_run(client.get_run(study).info.experiment_id, tags=tags, run_name=name).info.run_id
    client.update_run(study, "RUNNING")
    write_text(note, run_id)
    facts = {
        "model": training.network,
        training.params.unit: training.budget,
        "frames": training.T,
        "seed": training.seed,
        "fold": training.fold,
        "protocol": training.params.protocol,
        "trainer": training.params.trainer.model_dump(),
        "input": training.input.model_dump(),
        "train": training.recipe.model_dump(),
        "weights": training.weights,
        "weights_sha256": training.weights_sha256,
    }
    _log_params(client, run_id, facts)
    _log_clips(client, run_id, training.study, training.clips())
    return run_id


def _tags(name: str) -> dict[str, str]:
    experiment, baseline, head = os.environ.get("DVC_EXP_NAME"), os.environ.get("DVC_EXP_BASELINE_REV"), commit()
    way = f"`dvc exp apply {experiment}`" if experiment else "`dvc repro`" + (f" at commit `{head}`" if head else "")
    tags = {
        MLFLOW_SOURCE_NAME: "framebudget",
        MLFLOW_GIT_COMMIT: head,
        MLFLOW_RUN_NAME: name,
        MLFLOW_RUN_NOTE: f"{way} brings this run's parameters and results into the working tree.",
        "dvc.exp_name": experiment,
        "dvc.baseline_rev": baseline,
    }
    tags |= {f"version.{package}": number for package, number in versions().items()}
    tags |= {f"dvc.lock.{path}": md5 for path, md5 in _inputs().items()}
    return {key: value for key, value in tags.items() if value}


def _inputs() -> dict[str, str]:
    """What trainings read, by the hashes that dvc.lock gives it."""
    paths = (Path(f"work/{name}") for name in ("split.csv", "index.json", "weights.json"))
    return {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in paths if path.exists()}


def _log_params(client: MlflowClient, run_id: str, facts: dict) -> None:
    """Those of a section with its name and a dot before their own."""
    params = [Param(key, str(value)) for key, value in pd.json_normalize(facts).iloc[0].items()]
    for start in range(0, len(params), 100):  # MLflow takes no more at once
        client.log_batch(run_id, params=params[start : start + 100])


def _log_clips(client: MlflowClient, run_id: str, study: Study, split: pd.DataFrame) -> None:
    """The clips as an MLflow dataset; its digest is the beginning of the hash that is printed in the paper."""
    clips = split.drop_duplicates("clip")
    profile = {"clips": len(clips), "groups": clips["group"].nunique(), "classes": clips["class"].nunique()}
    profile |= clips["subset"].value_counts().sort_index().to_dict() if split["fold"].nunique() == 1 else {}
    dataset = Dataset(
        name=study.params.dataset,
        digest=study.clips_sha256[:36],
        source_type="local",
        source=json.dumps({"uri": study.params.archive or str(study.params.folder)}),
        profile=json.dumps(profile),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])


def log_scores(study: Study, scores: Iterable[tuple[Training, dict[str, float]]], means: dict[str, float]) -> None:
    """Test metrics: each training's, and, as in the paper's first table, the study's."""
    with tolerant("the test metrics"):
        client, study_id = study_run(study)
        for training, values in scores:
            for run_id in runs_that_made(client, training):
                for name, value in values.items():
                    client.log_metric(run_id, f"test_{name}", value)
        for name, value in means.items():
            client.log_metric(study_id, f"test_accuracy.{name}", value)
        client.set_terminated(study_id)


def log_pictures(study: Study, folder: Path, draw: Callable[[Training], dict[str, Figure]]) -> None:
    """The paper's figures, in `folder`, to the study; and to every training those that `draw` makes of it, by name."""
    with tolerant("the pictures"):
        client, study_id = study_run(study)
        for path in sorted(folder.glob("*.png")):
            client.log_artifact(study_id, str(path), "figures")
        for training in study.trainings():
            for run_id in runs_that_made(client, training):
                for name, figure in draw(training).items():
                    client.log_figure(run_id, figure, f"{name}.png", save_kwargs={"dpi": 200})


def runs_that_made(client: MlflowClient, training: Training) -> list[str]:
    """The ids of the runs that ended in its weights: several if it was repeated, none if not in this store."""
    experiment = client.get_experiment_by_name(training.params.dataset)
    found = client.search_runs([experiment.experiment_id], f"tags.`{TRAINED}` = '{sha256(training.file)}'")
    return [run.info.run_id for run in found]


def log_model(run_id: str, training: Training, file: Path, epoch: dict) -> None:
    """The weights as a model that MLflow can serve, the next version of `framebudget-<network>`.

    Of the versions that learned from the very same clips, the one with the best validation accuracy, the first of
    several, has the alias best-<data set>.
    epoch: the row of the learning curve whose weights these are.
    """
    name, T, crop = f"framebudget-{training.network}", training.T, training.input.crop
    mlflow.set_tracking_uri(tracking_uri())
    client = MlflowClient()
    with mlflow.start_run(run_id, log_system_metrics=False) as run:
        logged = mlflow.pyfunc.log_model(
            name=training.network,
            loader_module="framebudget.commands.serving",
            data_path=str(file),
            code_paths=[str(PACKAGE)],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype(np.uint8), (-1, T, -1, -1, 3))]),
                Schema([ColSpec("double", label) for label in training.study.classes]),
            ),
            input_example=np.full((1, T, crop, crop, 3), 127, np.uint8),
            pip_requirements=[
                f"{package}=={version(package)}" for package in (*versions(), "torchvision", "ruamel.yaml")
            ],
        )
    client.set_tag(run_id, TRAINED, sha256(file))
    clips, accuracy = training.study.clips_sha256[:36], epoch["val_accuracy"]
    tags = {"clips": clips, "frames": str(T), "val_accuracy": f"{accuracy:.6f}"}
    if not client.search_registered_models(f"name = '{name}'"):
        with contextlib.suppress(MlflowException):  # another training was faster
            client.create_registered_model(name)
    client.create_model_version(name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id)
    rivals = client.search_model_versions(f"name = '{name}' and tag.clips = '{clips}'")
    best = max(rivals, key=lambda version: (float(version.tags["val_accuracy"]), -int(version.version)))
    dataset = client.get_experiment(run.info.experiment_id).name
    client.set_registered_model_alias(name, f"best-{dataset}", best.version)
