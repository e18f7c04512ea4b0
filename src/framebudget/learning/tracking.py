"""MLflow: a run for every study, and nested in it one for every training.

A study's run is found again by what determines the trainings, so that all stages of one `dvc repro` log to it, one that
was interrupted and goes on too. A DVC experiment has its own. Both lead back: `dvc.exp_name` is a tag of every run.
"""

import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
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
from sqlalchemy.exc import SQLAlchemyError

from framebudget.console import sha256, shown, write_text
from framebudget.params import Params, top, tracking_uri
from framebudget.provenance import clips_sha256, commit, versions
from framebudget.runs import Run

STUDY, TRAINED = "framebudget.study", "framebudget.trained_sha256"  # tags that runs are found by
PACKAGE = Path(__file__).parents[1]
REFUSALS = (MlflowException, SQLAlchemyError)  # MLflow lets some of its database's pass as they are

# A server that does not answer is given up after seconds, not MLflow's minutes: a training waits for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def study_run(p: Params, split: pd.DataFrame) -> tuple[MlflowClient, str]:
    """The store, and in it the id of this study's run, in an experiment named after the data set.

    Raises ConnectionError if the store does not answer, or cannot be used.
    """
    uri = tracking_uri()
    said = p.model_dump(exclude={"datasets", "workers", "launcher"}) | {
        "datasets": {p.dataset: p.data.model_dump(exclude={"evaluate"})}
    }
    names = {
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "dvc.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV") or commit(),
    }
    inputs = [said, names, *_inputs().values()]
    study = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    name = names["dvc.exp_name"] or f"{'-'.join(map(str, p.frames))} {p.unit}, {study[:7]}"
    try:
        _knock(uri)
    except (OSError, ValueError) as error:
        raise ConnectionError(refused(uri, error)) from None
    try:
        # first runs that start at once in this repository would each make the tables (mlflow#4123), and the study
        with FileLock(top() / "mlflow.lock"):
            client = MlflowClient(uri)
            place = [_experiment(client, p.dataset, uri)]
            sought = {"filter_string": f"tags.`{STUDY}` = '{study}'", "order_by": ["start_time", "run_id"]}
            if found := client.search_runs(place, **sought, max_results=1):
                return client, found[0].info.run_id
            run_id = client.create_run(place[0], tags=_tags(name) | {STUDY: study}, run_name=name).info.run_id
            first = client.search_runs(place, **sought, max_results=1)[0].info.run_id
            if first != run_id:  # another machine was faster
                client.delete_run(run_id)
                return client, first
            _log_params(client, run_id, pd.json_normalize(said).iloc[0].to_dict())
            _log_clips(client, run_id, p, split)
    except REFUSALS as error:
        raise ConnectionError(refused(uri, error)) from None
    return client, run_id


def _knock(uri: str) -> None:
    """Raises OSError if a database does not answer, for which MLflow would wait for two minutes."""
    parts = urlsplit(uri)
    if parts.hostname and parts.port and parts.scheme not in ("http", "https"):
        socket.create_connection((parts.hostname, parts.port), timeout=3).close()


def refused(uri: str, error: Exception) -> str:
    """What is the matter with the store, and the way out."""
    text = str(getattr(error, "orig", error))  # SQLAlchemy's own is a page
    if "out-of-date database schema" in text:
        what = (
            f"is of another version of MLflow: use that one, or move it away, or copy it and: mlflow db upgrade {uri}"
        )
    elif "locked" in text:
        what = "is held by another program: wait for it, or end it"
    elif "not a database" in text or "malformed" in text:
        what = "is damaged: move it away, and a new one begins; work/ and DVC have all that the paper needs"
    elif uri.startswith("sqlite:"):
        what = "cannot be used"
    else:
        what = "does not answer: start it, or unset MLFLOW_TRACKING_URI to log to mlflow.db"
    return f"MLflow at {shown(uri)} {what} ({text})".replace(uri, shown(uri))


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Its id. Pictures and models of a local store lie beside it."""
    database = uri.removeprefix("sqlite:///")
    where = Path(database).with_name("mlruns").as_uri() if database != uri else None
    if client.get_experiment_by_name(name) is None:
        with contextlib.suppress(MlflowException):  # another machine was faster
            client.create_experiment(name, artifact_location=where)
    return client.get_experiment_by_name(name).experiment_id


def training_run(p: Params, split: pd.DataFrame, model: str, run: Run, weights: str | None, note: Path) -> str:
    """The id of the run `<model>-<frames>f-s<seed>`, in that of its study.

    Its parameters are those of params.yaml that shaped this training, with what the network overrides.
    split: the clips of this training.
    weights: sha256 of what the training starts from.
    note: a file that keeps the run's id; if the run it names is there, that one goes on.
    """
    client, study = study_run(p, split)
    run_id = note.read_text() if note.exists() else None
    with contextlib.suppress(MlflowException):
        if run_id and client.get_run(run_id).info.lifecycle_stage == "active":
            client.update_run(run_id, "RUNNING")
            return run_id
    name = f"{model}-{run.name}"
    tags = _tags(name) | {MLFLOW_PARENT_RUN_ID: study, "dvc.stage": os.environ.get("DVC_STAGE", "")}
    run_id = client.create_run(client.get_run(study).info.experiment_id, tags=tags, run_name=name).info.run_id
    client.update_run(study, "RUNNING")
    write_text(note, run_id)
    said = {
        "protocol": p.protocol,
        "trainer": p.trainer.model_dump(),
        "input": p.input(model).model_dump(),
        "train": p.recipe(model).model_dump(),
        "weights": p.weights(model),
        "weights_sha256": weights,
    }
    own = {"model": model, "frames": run.budget, "seed": run.seed, "fold": run.fold}
    _log_params(client, run_id, own | pd.json_normalize(said).iloc[0].to_dict())
    _log_clips(client, run_id, p, split)
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


def _log_params(client: MlflowClient, run_id: str, values: dict[str, object]) -> None:
    params = [Param(key, str(value)) for key, value in values.items()]
    for start in range(0, len(params), 100):  # MLflow takes no more at once
        client.log_batch(run_id, params=params[start : start + 100])


def _log_clips(client: MlflowClient, run_id: str, p: Params, split: pd.DataFrame) -> None:
    """The clips as an MLflow dataset; its digest is the beginning of the hash that stands in the paper."""
    clips = split.drop_duplicates("clip")
    profile = {"clips": len(clips), "groups": clips["group"].nunique(), "classes": clips["class"].nunique()}
    profile |= clips["subset"].value_counts().sort_index().to_dict() if split["fold"].nunique() == 1 else {}
    dataset = Dataset(
        name=p.dataset,
        digest=clips_sha256(split)[:36],
        source_type="local",
        source=json.dumps({"uri": p.clips}),
        profile=json.dumps(profile),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])


def runs_that_made(client: MlflowClient, p: Params, weights: Path) -> list[str]:
    """The ids of the trainings that ended in these weights: several if one was repeated, none if not in this store."""
    experiment = client.get_experiment_by_name(p.dataset)
    found = client.search_runs([experiment.experiment_id], f"tags.`{TRAINED}` = '{sha256(weights)}'")
    return [run.info.run_id for run in found]


@contextlib.contextmanager
def going_on(what: str) -> Iterator[None]:
    """Let nothing be lost but what MLflow was to be told, and say so, if it does not answer."""
    try:
        yield
    except (*REFUSALS, OSError) as error:
        print(
            f"warning: MLflow at {shown(tracking_uri())} does not take {what}; work/ has it ({error})", file=sys.stderr
        )


def log_model(
    run_id: str, model: str, file: Path, T: int, crop: int, classes: list[str], epoch: dict, split: pd.DataFrame
) -> None:
    """The weights as a model that MLflow can serve, the next version of `framebudget-<model>`.

    Of the versions that learned from the very same clips, the one with the best validation accuracy, the first of
    several, has the alias best-<data set>.
    epoch: the row of the learning curve whose weights these are.
    """
    name = f"framebudget-{model}"
    mlflow.set_tracking_uri(tracking_uri())
    client = MlflowClient()
    with mlflow.start_run(run_id, log_system_metrics=False) as run:
        logged = mlflow.pyfunc.log_model(
            name=model,
            loader_module="framebudget.models.trained",
            data_path=str(file),
            code_paths=[str(PACKAGE)],
            signature=ModelSignature(
                Schema([TensorSpec(np.dtype(np.uint8), (-1, T, -1, -1, 3))]),
                Schema([ColSpec("double", name) for name in classes]),
            ),
            input_example=np.full((1, T, crop, crop, 3), 127, np.uint8),
            pip_requirements=[
                f"{package}=={version(package)}" for package in (*versions(), "torchvision", "ruamel.yaml")
            ],
        )
    client.set_tag(run_id, TRAINED, sha256(file))
    clips, accuracy = clips_sha256(split)[:36], epoch["val_accuracy"]
    tags = {"clips": clips, "frames": run.data.params["frames"], "val_accuracy": f"{accuracy:.6f}"}
    if not client.search_registered_models(f"name = '{name}'"):
        with contextlib.suppress(MlflowException):  # another training was faster
            client.create_registered_model(name)
    client.create_model_version(name, logged.model_uri, run_id, tags=tags, model_id=logged.model_id)
    rivals = client.search_model_versions(f"name = '{name}' and tag.clips = '{clips}'")
    best = max(rivals, key=lambda version: (float(version.tags["val_accuracy"]), -int(version.version)))
    dataset = client.get_experiment(run.info.experiment_id).name
    client.set_registered_model_alias(name, f"best-{dataset}", best.version)
