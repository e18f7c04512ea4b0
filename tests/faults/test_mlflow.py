"""mlflow.db held by another program, damaged, or made by another MLflow: the stage says so, and goes on once mended."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import InitialBase, _get_alembic_config
from mlflow.tracking import MlflowClient

from tests.conftest import run
from tests.faults.state import digest, unfinished_runs

pytestmark = pytest.mark.slow
TRAIN = ("python", "-m", "framebudget.train", "x3d_m")


def refused(folder) -> str:
    result = run(*TRAIN, cwd=folder, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not (folder / "work/x3d_m").exists()
    return result.stderr


def test_a_locked_database_is_said_and_then_waited_for(fresh, trained):
    run("mlflow", "db", "upgrade", f"sqlite:///{fresh / 'mlflow.db'}", cwd=fresh)
    with contextlib.closing(sqlite3.connect(fresh / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "mlflow.db is held by another program: wait for it" in refused(fresh)
    run(*TRAIN, cwd=fresh)
    assert digest(fresh / "work/x3d_m") == digest(trained / "work/x3d_m")


def test_locked_while_a_network_trains_nothing_is_lost_but_what_mlflow_was_to_be_told(fresh, trained):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    training = subprocess.Popen(TRAIN, cwd=fresh, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(fresh.glob("work/trainings/*/last.ckpt")):  # an epoch has ended
        assert training.poll() is None
        time.sleep(0.01)
    with contextlib.closing(sqlite3.connect(fresh / "mlflow.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        output = training.communicate()[1]
    assert training.returncode == 0, output
    assert "does not answer; training continues" in output
    assert "mlflow.db did not take the weights of X3D-M 2f-s0" in output
    assert digest(fresh / "work/x3d_m") == digest(trained / "work/x3d_m")


@pytest.mark.parametrize("where", [0, 8192])
def test_a_damaged_database_is_moved_away_and_nothing_else_is_lost(fresh, trained, where):
    database = fresh / "mlflow.db"
    database.write_bytes((trained / "mlflow.db").read_bytes())
    with database.open("r+b") as file:
        file.seek(where)
        file.write(os.urandom(database.stat().st_size - where))
    assert "mlflow.db is damaged: move it away to start a new one" in refused(fresh)
    database.rename(fresh / "broken.db")
    run(*TRAIN, cwd=fresh)
    assert digest(fresh / "work/x3d_m") == digest(trained / "work/x3d_m")
    assert not unfinished_runs(fresh)


def older(uri: str, revision: str) -> None:
    """Tables as MLflow's own migrations make them, up to one of them, and an experiment."""
    engine = sqlalchemy.create_engine(uri)
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        config = _get_alembic_config(uri)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.exec_driver_sql("INSERT INTO experiments (name, lifecycle_stage) VALUES ('before', 'active')")
    engine.dispose()


def test_a_database_of_a_newer_mlflow_is_left_as_it_is(fresh, trained):
    database = fresh / "mlflow.db"
    database.write_bytes((trained / "mlflow.db").read_bytes())
    with contextlib.closing(sqlite3.connect(database)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        newer.commit()
    before = database.read_bytes()
    assert "was made by another version of MLflow: use that one, move it away" in refused(fresh)
    assert database.read_bytes() == before


def test_the_database_of_mlflow_2_0_is_upgraded_by_mlflow_and_keeps_what_it_had(fresh, trained):
    uri = f"sqlite:///{fresh / 'mlflow.db'}"
    older(uri, "97727af70f4d")
    run(*TRAIN, cwd=fresh)
    assert digest(fresh / "work/x3d_m") == digest(trained / "work/x3d_m")
    assert {found.name for found in MlflowClient(uri).search_experiments()} >= {"before", "folder"}
