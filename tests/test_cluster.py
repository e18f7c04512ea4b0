"""A real Ray cluster on loopback: a head and two workers, one of which is killed in mid-training."""

import os
import shutil
import time
from multiprocessing import connection
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.conftest import ready_to_train, run, set_params
from tests.test_train import TRAIN, digests, epochs, start

ray = pytest.importorskip("ray", reason="no Ray (requirements-ray.lock)")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def split(clips, tmp_path_factory) -> Path:
    """2 budgets, 6 epochs of 2 batches, by ASGD."""
    return ready_to_train(clips, tmp_path_factory.mktemp("split"), frames=[2, 3], workers=0, **{"train.epochs": 6})


@pytest.fixture
def cluster(monkeypatch):
    """A head that trains nothing, and two workers of one CPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, workers
    cluster.shutdown()


def test_a_training_whose_node_dies_runs_again_to_the_bytes_of_a_local_one(split, cluster, tmp_path):
    here = shutil.copytree(split, tmp_path / "here")
    run(*TRAIN, cwd=here)
    there = shutil.copytree(split, tmp_path / "there")
    set_params(there, engine="ray")
    process = start(*TRAIN, cwd=there)
    while process.poll() is None and len(epochs(there)) < 2:
        time.sleep(0.05)
    cluster[0].remove_node(cluster[1][0], allow_graceful=False)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "X3D-M 2f-s0: validation accuracy" in said
    assert digests(there) == digests(here)
    client = MlflowClient(f"sqlite:///{there / 'mlflow.db'}")
    runs = client.search_runs(
        [client.get_experiment_by_name("folder").experiment_id], order_by=["attributes.start_time"]
    )
    assert sorted(run.info.run_name for run in runs)[1:] == ["x3d_m-2f-s0", "x3d_m-3f-s0"]
    curve = pd.read_csv(there / "work/x3d_m/curves.csv")
    for found in runs[1:]:
        rows = curve[curve["frames"] == int(found.data.params["frames"])]
        assert found.data.metrics["val_loss"] == pytest.approx(rows["val_loss"].iloc[-1], rel=1e-4)
        assert client.get_run(found.info.run_id).info.status == "FINISHED"
    assert len(client.search_model_versions("name = 'framebudget-x3d_m'")) == 2


def test_a_training_waits_for_a_node_with_enough_cpus(split, cluster, tmp_path):
    there = shutil.copytree(split, tmp_path / "there")
    set_params(there, engine="ray", frames=2, **{"trainer.threads": 2, "train.epochs": 1})
    process = start(*TRAIN, cwd=there)
    said = ""
    while "no node of the cluster has 2 CPUs (trainer.threads in params.yaml); the largest has 1" not in said:
        assert connection.wait(process.readers, timeout=120), said
        part = os.read(process.readers[0].fileno(), 2**16)
        assert part, said
        said += part.decode()
    cluster[0].add_node(num_cpus=2)
    said += process.communicate(timeout=300)[0]
    assert process.returncode == 0, said


def test_clips_that_a_node_does_not_have_are_an_error_that_names_it(split, cluster, tmp_path):
    """One machine cannot miss what it has: the clips are moved away once the command has checked them."""
    there = shutil.copytree(split, tmp_path / "there")
    clips = shutil.copytree(Path(run("python", "-c", CLIPS, cwd=there).stdout.strip()), tmp_path / "clips")
    set_params(there, engine="ray", clips=str(clips))
    (there / "move.py").write_text(MOVE)
    result = run("python", "move.py", cwd=there, check=False)
    assert result.returncode == 1
    assert "where clips must be at the same path as here" in result.stderr
    assert "Traceback" not in result.stderr


CLIPS = "from framebudget import params; print(params.load().folder)"
MOVE = """
import sys
from framebudget import params, train
folder, begin = params.load().folder, train.begin

def begin_and_move(*arguments):
    begin(*arguments)
    folder.rename(folder.with_name("moved"))

train.begin = begin_and_move
sys.argv = ["train", "x3d_m"]
train.main()
"""


def test_a_cluster_that_does_not_answer_is_an_error(split, tmp_path, monkeypatch):
    there = shutil.copytree(split, tmp_path / "there")
    set_params(there, engine="ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    result = run(*TRAIN, cwd=there, check=False)
    assert result.returncode == 1
    assert "error: RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:9" in result.stderr
