import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from mlflow.tracking import MlflowClient

from framebudget import params
from framebudget.learning.tracking import start_run, system_metrics
from framebudget.runs import Run
from tests.conftest import ROOT, run

START = """
import sys
from framebudget import params
from pathlib import Path
from framebudget.learning.tracking import start_run
from framebudget.runs import Run
start_run(params.load(), "x3d_m", Run(int(sys.argv[1]), 0), None, Path("run"))
"""


def test_first_runs_that_start_at_once_share_one_new_store(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    queue = tmp_path / ".dvc/tmp/exps"  # where two workers have their copies of the repository; the third is the user
    copies = [queue / "tmp1", queue / "tmp2", tmp_path]
    for folder in copies[:2]:
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "params.yaml", folder)
    with ThreadPoolExecutor(3) as workers:
        list(workers.map(lambda i: run("python", "-c", START, str(i + 1), cwd=copies[i]), range(3)))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("motion")
    names = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert names == {"x3d_m-1f-s0", "x3d_m-2f-s0", "x3d_m-3f-s0"}


def test_the_use_of_the_machine_is_logged_while_a_training_runs(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store := f"sqlite:///{tmp_path / 'mlflow.db'}")  # the logger sets it too
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    logger = start_run(params.load(), "x3d_m", Run(1, 0), None, tmp_path / "run")
    with system_metrics(logger):
        time.sleep(2)
    metrics = MlflowClient(store).get_run(logger.run_id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    again = start_run(params.load(), "x3d_m", Run(1, 0), None, tmp_path / "run")
    assert again.run_id == logger.run_id
