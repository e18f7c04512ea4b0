import shutil
from concurrent.futures import ThreadPoolExecutor

from mlflow.tracking import MlflowClient

from tests.conftest import ROOT, run

START = """
import sys
from framebudget import params
from pathlib import Path
from framebudget.learning.tracking import start_run
start_run(params.load(), "x3d_m", int(sys.argv[1]), 0, Path("run"))
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
