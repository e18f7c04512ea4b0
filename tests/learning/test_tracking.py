"""Runs, models and aliases in a store; a real MLflow server with PostgreSQL behind it, and one that goes away."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from framebudget import params
from framebudget.commands.predict import registered_weights
from framebudget.console import sha256
from framebudget.learning import logger as logging
from framebudget.learning import tracking
from framebudget.learning.logger import PatientLogger
from framebudget.learning.mlflow_store import StoreError, connect, tolerant, tracking_uri
from framebudget.learning.tracking import log_model, log_scores, running, runs_that_made, study_run, training_run
from framebudget.models import NETWORKS, weights
from framebudget.study import Study, Training
from tests.conftest import ROOT, run
from tests.server import free_address, serving_mlflow

SPLIT = pd.DataFrame(
    {"clip": ["b", "a"], "sha256": ["1", "0"], "group": "g", "class": "c", "subset": "train", "fold": 0}
)
TWO_CLASSES = SPLIT.assign(**{"class": ["Ähre", "b"]})
POSTGRES = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


def ready(folder: Path) -> None:
    """Put parameters and the digests of the given weights there."""
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "work").mkdir()
    (folder / "work/split.csv").write_text("clip")
    (folder / "work/weights.json").write_text('{"x3d_m": null, "slowfast_r50": null}')


def training(frames: int = 1, seed: int = 0, split: pd.DataFrame = SPLIT, network: str = "x3d_m") -> Training:
    """Of the study in the current folder, but for its budget."""
    study = Study(params.load(), split)
    first = study.trainings(network)[0]
    return replace(first, budget=frames, T=frames, seed=seed)


@pytest.fixture
def here(tmp_path, monkeypatch, empty_store) -> Path:
    """A folder with params.yaml and a store of its own, where no experiment of DVC runs."""
    ready(tmp_path)
    shutil.copy(empty_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")  # the logger sets it too
    return tmp_path


@pytest.fixture
def postgres():
    """The address of a new, empty database. PostgreSQL does not run as root: then as `nobody`."""
    if POSTGRES is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    folder, port = Path(tempfile.mkdtemp()), free_address().rpartition(":")[2]
    user = ["runuser", "-u", "nobody", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "nobody")

    def do(command: str, *arguments: str) -> None:
        subprocess.run([*user, POSTGRES / command, "-D", folder / "db", *arguments], check=True, cwd=folder,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    do("initdb", "-U", "mlflow", "-A", "trust", "-N")
    do("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
    do("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_first_runs_that_start_at_once_share_one_new_store_and_one_study(tmp_path):
    ready(tmp_path)
    queue = tmp_path / ".dvc/tmp/exps"  # where two workers have their copies of the repository; the third is the user
    copies = [queue / "tmp1", queue / "tmp2", tmp_path]
    for folder in copies[:2]:
        folder.mkdir(parents=True)
        ready(folder)
    at_once(copies, MLFLOW_TRACKING_URI="")
    assert_one_study_of(3, MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"))


def test_four_clients_at_once_on_a_server_with_postgresql(tmp_path, postgres):
    copies = [tmp_path / str(i) for i in range(4)]
    for folder in copies:
        folder.mkdir()
        ready(folder)
    with serving_mlflow(tmp_path, uri := free_address(), postgres):
        at_once(copies, MLFLOW_TRACKING_URI=uri)
        assert_one_study_of(4, MlflowClient(uri))


def at_once(folders: list[Path], **environment: str) -> None:
    """One client in each: a training of 1, 2, … frames, with twenty epochs of metrics."""

    def client(i: int) -> None:
        SPLIT.to_json(folders[i] / "split.json")
        run("python", "-m", "tests.learning.client", str(i + 1), cwd=folders[i], **environment)

    with ThreadPoolExecutor(len(folders)) as clients:
        list(clients.map(client, range(len(folders))))


def assert_one_study_of(trainings: int, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("motion")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    (study,) = (runs.pop(name) for name in list(runs) if not name.startswith("x3d_m"))
    assert runs.keys() == {f"x3d_m-{frames}f-s0" for frames in range(1, trainings + 1)}
    for name, found in runs.items():
        assert found.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert found.info.status == "FINISHED"
        history = client.get_metric_history(found.info.run_id, "val_accuracy")
        frames = int(name.split("-")[1][:-1])
        assert [metric.value for metric in history] == pytest.approx([frames + epoch / 100 for epoch in range(20)])


def test_a_run_says_what_it_rests_on_and_the_way_back(here, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "moody-gown")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "1234567")
    monkeypatch.setenv("DVC_STAGE", "train_x3d")
    (here / "work/weights.json").write_text('{"x3d_m": "abc"}')
    (here / "work/split.csv").write_text("clip")
    client, study = study_run(training().study)
    found = client.get_run(training_run(training(6)))
    tags = found.data.tags
    assert "dvc exp apply moody-gown" in tags["mlflow.note.content"]
    assert (tags["dvc.exp_name"], tags["dvc.baseline_rev"], tags["dvc.stage"]) == ("moody-gown", "1234567", "train_x3d")
    assert tags["dvc.lock.work/split.csv"] == hashlib.md5(b"clip").hexdigest()
    assert tags["mlflow.parentRunId"] == study
    assert tags["version.torch"]
    assert {"frames": "6", "train.lr": "0.001", "input.crop": "32", "train.optimizer": "AdamW",
            "weights_sha256": "abc"}.items() <= found.data.params.items()  # fmt: skip
    assert client.get_run(study).data.params["datasets.motion.slowfast_r50.lr"] == "0.0015"
    assert client.get_run(study).info.run_name == "moody-gown"
    (dataset,) = (given.dataset for given in found.inputs.dataset_inputs)
    assert json.loads(dataset.profile) == {"clips": 2, "groups": 1, "classes": 1, "train": 2}
    assert dataset.name == "motion"

    monkeypatch.setenv("DVC_EXP_NAME", "other-gown")
    assert study_run(training().study)[1] != study


def test_an_interrupted_training_goes_on_in_its_run_and_the_use_of_the_machine_is_logged(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    logger = PatientLogger(training_run(training()))
    time.sleep(2)
    logger.finalize("failed")
    client = MlflowClient()
    assert client.get_run(logger.run_id).data.metrics["system/system_memory_usage_megabytes"] > 0
    assert client.get_run(logger.run_id).info.status == "FAILED"
    assert training_run(training()) == logger.run_id
    assert client.get_run(logger.run_id).info.status == "RUNNING"


def test_a_run_has_the_whole_curve_of_a_training_that_was_interrupted(here):
    """A rerun without a name is another experiment for DVC, and so another run."""
    curve = [dict.fromkeys(tracking.CURVE, 0.1 * epoch) | {"epoch": epoch} for epoch in range(3)]
    for before, epoch in ((curve[:1], 1), (curve[:2], 2)):  # the second finds the first two in the run
        logger = PatientLogger(training_run(training()), before)
        logger.log_metrics({name: 0.1 * epoch for name in tracking.CURVE} | {"epoch": epoch}, step=77)
        logger.finalize()
    history = MlflowClient().get_metric_history(logger.run_id, "val_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.0), (1, 0.1), (2, 0.2)]


def test_the_run_of_a_study_runs_as_long_as_its_trainings(here):
    def status() -> str:
        return client.get_run(run_id).info.status

    client, run_id = study_run(training().study)
    with pytest.raises(KeyboardInterrupt), running(training().study):
        PatientLogger(training_run(training())).finalize()
        assert status() == "RUNNING"
        raise KeyboardInterrupt
    assert status() == "FAILED"
    with running(training().study):
        assert status() == "RUNNING"
    assert status() == "FINISHED"


def test_the_best_of_the_same_clips_has_the_alias_and_can_be_served(here):
    import mlflow

    versions = []
    others = {3: TWO_CLASSES.assign(sha256="other"), 4: TWO_CLASSES.assign(subset=["validation", "train"])}
    for seed, accuracy in enumerate([0.5, 0.8, 0.8, 0.6, 0.4]):
        split = others.get(seed, TWO_CLASSES)
        one = training(2, seed, split)
        run_id = training_run(one)
        file = one.file
        file.parent.mkdir(exist_ok=True)
        network = NETWORKS["x3d_m"].build(2)
        facts = {"model": "x3d_m", "frames": 2, "classes": one.study.classes, "input": one.input.model_dump()}
        weights.save(file, network, **facts)
        log_model(run_id, one, file, accuracy)
        client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
        assert [run.info.run_id for run in runs_that_made(client, one.file, "motion")] == [run_id]
        versions.append(int(client.get_model_version_by_alias("framebudget-x3d_m", "best-motion").version))
    assert versions == [1, 2, 2, 4, 5]
    served = mlflow.pyfunc.load_model("models:/framebudget-x3d_m@best-motion")
    said = served.predict(np.zeros((3, 2, 40, 48, 3), np.uint8))
    assert list(said.columns) == ["b", "Ähre"]
    assert said.sum(axis=1).to_numpy() == pytest.approx(np.ones(3))
    asked = Path(mlflow.pyfunc.get_model_dependencies("models:/framebudget-x3d_m@best-motion")).read_text()
    assert all(f"{package}==" in asked for package in ("torch", "torchvision", "pytorchvideo", "ruamel.yaml"))
    (here / "download").mkdir()
    inside = registered_weights(
        "models:/framebudget-x3d_m@best-motion", str(here / "download")
    )  # as `framebudget predict --model` takes them
    assert sha256(inside) == sha256(file)


def test_a_server_that_does_not_answer_ends_the_training_before_it_begins(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := free_address())
    with pytest.raises(StoreError, match=f"MLflow at {uri} does not answer: start it, or unset MLFLOW_"):
        training_run(training())


def test_a_database_that_does_not_answer_is_said_at_once_and_its_password_never(here, monkeypatch):
    address = free_address().removeprefix("http://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://user:secret@{address}/x")
    began = time.monotonic()
    with pytest.raises(StoreError, match=rf"MLflow at postgresql://user:\*\*\*@{address}/x does not") as raised:
        training_run(training())
    assert "secret" not in str(raised.value)
    assert time.monotonic() - began < 30  # MLflow alone takes two minutes


@pytest.mark.parametrize("address", ["localhost:5000", "mlruns", "file:///tmp/mlruns", "databricks", "//host/mlruns"])
def test_what_is_no_store_is_refused_with_what_would_be_one(here, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(StoreError, match=r"it must be a server, http://HOST:PORT, or a database, sqlite:///FILE"):
        training_run(training())
    assert not list(here.glob("*mlruns*"))


def test_a_relative_database_lies_at_the_top_for_queued_experiments_too(here, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert tracking_uri() == f"sqlite:///{here / 'other.db'}"
    copy = here / ".dvc/tmp/exps/x"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert tracking_uri() == f"sqlite:///{here / 'other.db'}"


@pytest.mark.parametrize("name", ["My%20Project", "what?", "a b#c ü"])
def test_a_repository_may_have_any_name(tmp_path, empty_store, name):
    folder = tmp_path / name
    folder.mkdir()
    ready(folder)
    shutil.copy(empty_store, folder)
    at_once([folder], MLFLOW_TRACKING_URI="")
    assert [path.read_text() for path in (folder / "mlruns").rglob("note.txt")] == ["x"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [name]


def test_artifacts_follow_a_repository_that_is_moved_or_copied(here, monkeypatch):
    client, study = study_run(training().study)
    client.log_text(study, "x", "note.txt")
    run_id = training_run(training())
    for way in (shutil.copytree, shutil.move):
        there = here.with_name(f"{here.name} {way.__name__}")
        way(str(here), str(there))
        monkeypatch.chdir(there)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{there / 'mlflow.db'}")
        client = connect()
        assert Path(download_artifacts(run_id=study, artifact_path="note.txt", dst_path=str(there))).read_text() == "x"
        assert client.get_run(run_id).info.artifact_uri.startswith((there / "mlruns").as_uri())
        assert client.get_experiment_by_name("motion").artifact_location == (there / "mlruns").as_uri()


@pytest.mark.parametrize("place", ["s3://bucket/mlruns", "mlflow-artifacts:/mlruns"])
def test_artifacts_elsewhere_stay_where_they_are(here, place):
    connect().create_experiment("theirs", artifact_location=place)
    assert connect().get_experiment_by_name("theirs").artifact_location == place


def test_a_training_goes_on_in_its_run_after_a_commit(here, monkeypatch):
    (_, study), first = study_run(training().study), training_run(training())
    monkeypatch.setattr(tracking, "_commit", lambda: "1234567")
    assert study_run(training().study)[1] == study
    assert training_run(training()) == first
    monkeypatch.setattr(tracking, "source_files", lambda: [here / "params.yaml"])  # other code
    assert study_run(training().study)[1] != study


def test_another_study_does_not_overwrite_the_test_metrics_of_a_training(here, monkeypatch):
    for T in (2, 3):
        one = training(T)
        one.file.parent.mkdir(exist_ok=True)
        weights.save(one.file, NETWORKS["x3d_m"].build(2), frames=T)
        run_id = training_run(one)
        MlflowClient().set_tag(run_id, tracking.TRAINED, sha256(one.file))
    first = training_run(training(2))
    for accuracy, name in ((0.5, None), (0.9, "moody-gown")):
        if name:
            monkeypatch.setenv("DVC_EXP_NAME", name)
        one = training(2)
        if name:  # its weights and its curve are in the store
            one.folder.mkdir(parents=True)
            shutil.copy(one.file, one.folder)
            row = {"epoch": 0, "train_loss": 1, "train_accuracy": 0.5, "val_loss": 1, "val_accuracy": 0.5, "lr": 0.1}
            pd.DataFrame([row]).to_csv(one.folder / "curve.csv", index=False)
        log_scores(one.study, [(one, {"accuracy": accuracy})], {"accuracy": accuracy})
    second = training_run(training(2))
    assert first != second
    metrics = [MlflowClient().get_run(run_id).data.metrics for run_id in (first, second)]
    assert [found["test_accuracy"] for found in metrics] == [0.5, 0.9]
    assert metrics[1]["val_accuracy"] == 0.5


def test_why_a_store_takes_no_experiment_is_said(here, monkeypatch):
    def refuses(*_, **__):
        raise MlflowException("attempt to write a readonly database")

    monkeypatch.setattr(MlflowClient, "create_experiment", refuses)
    with pytest.raises(StoreError, match="attempt to write a readonly database"):
        study_run(training().study)


def test_a_deleted_experiment_names_the_way_back(here):
    client, study = study_run(training().study)
    client.delete_experiment(number := client.get_run(study).info.experiment_id)
    with pytest.raises(
        StoreError, match=f"motion was deleted; restore it: mlflow experiments restore --experiment-id {number}"
    ):
        study_run(training().study)


def test_what_a_server_misses_follows_when_it_is_back(here, monkeypatch, capsys):
    store = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := free_address())
    monkeypatch.setattr(logging, "PAUSE", 0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the test need not wait
    with serving_mlflow(here, uri, store):
        logger = PatientLogger(training_run(training()))
        logger.log_metrics({"val_accuracy": 0.1}, 1)
    logger.log_metrics({"val_accuracy": 0.2}, 2)
    logger.log_metrics({"val_accuracy": 0.3}, 3)
    with tolerant("the pictures"):
        study_run(training().study)
    said = capsys.readouterr().err
    assert said.count("training continues") == 1
    assert f"MLflow at {uri} did not take the pictures; nothing in work/ is lost" in said
    with serving_mlflow(here, uri, store):
        logger.log_metrics({"val_accuracy": 0.4}, 4)
        logger.finalize()
    client = MlflowClient(store)
    history = client.get_metric_history(logger.run_id, "val_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert client.get_run(logger.run_id).info.status == "FINISHED"


def test_the_commit_is_that_of_the_study_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tracking._commit() == ""
    run("git", "init", "-q", cwd=tmp_path)
    (tmp_path / "dvc.yaml").touch()
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run("git", *author, "commit", "-qm", "another study", "--allow-empty", cwd=tmp_path)
    assert tracking._commit() == ""
    run("git", "add", "dvc.yaml", cwd=tmp_path)
    run("git", *author, "commit", "-qm", "this study", cwd=tmp_path)
    assert tracking._commit() == run("git", "rev-parse", "HEAD", cwd=tmp_path).stdout.strip()
