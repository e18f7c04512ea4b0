"""The training command: killed, on several ranks, on several machines, and with what it cannot do."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from framebudget.console import UserError
from framebudget.learning.data import ClipData
from framebudget.learning.fit import initial, trainer_of
from framebudget.learning.prediction import predict
from framebudget.models import NETWORKS, Network
from framebudget.study import Study
from framebudget.video.transforms import View
from tests.conftest import ready_to_train, run, set_params
from tests.forked import Forked, as_module, stand_in
from tests.server import free_address, serving_mlflow

TRAIN = ("python", "-m", "framebudget.train", "x3d_m")
LOSSES = ["train_loss", "val_loss"]
TWO = {"trainer.devices": 2, "trainer.strategy": "ddp", "frames": [2]}


@pytest.fixture(scope="module")
def split(clips, tmp_path_factory, empty_store) -> Path:
    """2 budgets, 4 epochs of 2 batches, by ASGD."""
    folder = Path(shutil.copy(empty_store, tmp_path_factory.mktemp("split"))).parent
    return ready_to_train(clips, folder, frames=[1, 2], workers=0, **{"train.epochs": 4})


@pytest.fixture(scope="module")
def trained(split, tmp_path_factory) -> Path:
    """The same, trained without interruption."""
    folder = shutil.copytree(split, tmp_path_factory.mktemp("trained"), dirs_exist_ok=True)
    run(*TRAIN, cwd=folder)
    return folder


@pytest.fixture
def fresh(split, tmp_path) -> Path:
    return shutil.copytree(split, tmp_path / "fresh")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "work/x3d_m").iterdir())}


def curve(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "work/x3d_m/curves.csv").query("frames == 2").reset_index(drop=True)


def start(*command: str, cwd: Path, **more: str) -> Forked:
    """In a process group of its own, for no child to outlive the test; more: its environment."""
    path = os.pathsep.join([stand_in(), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": ""} | more
    return Forked(as_module(command), cwd, environment, together=True)


@contextmanager
def ranks(folder: Path) -> Iterator[list[Forked]]:
    """Two processes of one training. If Lightning started the second, it would need seconds to import torch."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_address().rpartition(":")[2], "NODE_RANK": "0"}
    both = [start(*TRAIN, cwd=folder, LOCAL_RANK=str(number), **where) for number in range(2)]
    try:
        yield both
    finally:
        for process in both:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def epochs(folder: Path) -> dict[str, int]:
    """When each training's state was last written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("work/trainings/*/last.ckpt")}


def wait_for_an_epoch(process: Forked, folder: Path, before: dict[str, int]) -> None:
    while process.poll() is None and epochs(folder) in ({}, before):
        time.sleep(0.01)


def test_killed_three_times_it_ends_in_the_bytes_of_a_training_that_was_not(fresh, trained):
    """Once before the first epoch, and then at random within 0.15 s of the end of another; with a worker that reads
    ahead, which the other training has not."""
    moments = random.Random(0)
    kills = 0
    while kills < 3:
        before = epochs(fresh)
        set_params(fresh, workers=1, side_by_side=1 if kills else 2)
        process = start(*TRAIN, cwd=fresh)
        if kills:
            wait_for_an_epoch(process, fresh, before)
        time.sleep(moments.uniform(0, 0.15 if kills else 4))
        if process.poll() is not None:  # a machine that is fast enough to have been through with it
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert not (fresh / "work/x3d_m").exists()
    else:
        run(*TRAIN, cwd=fresh)
    assert kills > 1
    assert digests(fresh) == digests(trained)
    client = MlflowClient(f"sqlite:///{fresh / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("folder").experiment_id])
    names = sorted(run.info.run_name for run in runs)
    assert names[1:] == ["x3d_m-1f-s0", "x3d_m-2f-s0"]
    assert names[0].startswith("1-2 frames, ")  # the study's
    assert {run.info.status for run in runs} == {"FINISHED"}
    left = {path.name for path in fresh.glob("work/trainings/*/*")}
    assert left == {"1f-s0.pt", "2f-s0.pt", "curve.csv", "finished.json", "lock"}


def test_without_its_mlflow_server_a_training_goes_on_to_the_same_bytes(fresh, trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := free_address())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the test need not wait
    with serving_mlflow(fresh, uri, f"sqlite:///{shutil.copy(fresh / 'mlflow.db', fresh / 'server.db')}"):
        process = start(*TRAIN, cwd=fresh)
        wait_for_an_epoch(process, fresh, {})
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert f"MLflow at {uri} does not answer; training continues" in said
    assert "did not take the weights" in said
    assert digests(fresh) == digests(trained)


def test_compiled_too_it_goes_on_to_the_same_bytes(fresh, monkeypatch):
    """A small network, for compiling X3D-M takes minutes. One process holds what the killed training compiled."""
    from framebudget.learning import fit as fitting
    from framebudget.models.layers import ClipDropout, GlobalMean

    def small(classes: int) -> nn.Module:
        layers = nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), GlobalMean(), ClipDropout(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(8, classes))

    class Killed(fitting.LastEpoch):
        def on_train_epoch_end(self, trainer, task):
            super().on_train_epoch_end(trainer, task)
            raise InterruptedError

    set_params(fresh, frames=[3], **{"trainer.compile": True, "train.epochs": 2, "datasets.folder.x3d_m.lr": 0.1})
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{fresh / 'mlflow.db'}")
    monkeypatch.setitem(NETWORKS, "x3d_m", Network("x3d_m", "small", small, head="6."))
    (training,) = Study.load().trainings("x3d_m")
    torch._dynamo.utils.counters.clear()
    fitting.fit(training, print)
    whole = training.folder.rename("whole")
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    with monkeypatch.context() as once, pytest.raises(InterruptedError):
        once.setattr(fitting, "LastEpoch", Killed)
        fitting.fit(training, print)
    fitting.fit(training, print)
    for name in ("3f-s0.pt", "curve.csv"):
        assert (training.folder / name).read_bytes() == (whole / name).read_bytes()


def test_precision_and_memory_format_change_the_losses_but_little(fresh, trained):
    set_params(fresh, frames=[2], **{"trainer.memory_format": "contiguous_format", "trainer.precision": "bf16-mixed"})
    run(*TRAIN, cwd=fresh)
    change = (curve(fresh)[LOSSES] - curve(trained)[LOSSES]).abs()
    assert 1e-4 < change.max().max() < 0.05


@pytest.mark.parametrize(
    ("name", "gpus", "options", "last"),
    [
        ("channels_last_3d", 0, {}, True),
        ("contiguous_format", 0, {}, False),
        ("auto", 0, {"trainer.compile": True}, True),
        ("auto", 1, {}, True),
        ("auto", 1, {"trainer.compile": True}, False),
        ("auto", 2, {"trainer.devices": 2}, False),
        ("auto", 1, {"train.frozen_norms": True}, False),
    ],
)
def test_the_memory_format_of_weights_and_clips(fresh, monkeypatch, name, gpus, options, last):
    set_params(fresh, **{"trainer.memory_format": name} | options)
    monkeypatch.chdir(fresh)
    study = Study.load()
    training = replace(study, machine=study.machine._replace(gpus=gpus)).trainings("x3d_m")[0]
    data, frames_BVTHWC = ClipData(training), torch.zeros(2, 1, 4, 40, 40, 3, dtype=torch.uint8)
    views = [View([(0, 0)], flip=False)] * 2
    clips_BVCTHW, *_ = data.on_after_batch_transfer((frames_BVTHWC, views, torch.zeros(2), torch.arange(2)), 0)
    for tensor in (clips_BVCTHW[:, 0], initial(training).blocks[0].conv.conv_t.weight[:, :, 0]):
        channels_last = torch.channels_last_3d if tensor.ndim == 5 else torch.channels_last
        assert tensor.is_contiguous(memory_format=channels_last) == last
        assert tensor.is_contiguous() != last


def test_a_page_in_place_of_downloaded_weights_names_the_way_out(fresh, monkeypatch):
    (page := fresh / "X3D_M.pyth").write_text("<html>sign in</html>")
    monkeypatch.setattr("framebudget.learning.fit.local", lambda *_: page)
    set_params(fresh, **{"datasets.folder.x3d_m.weights": "http://zoo/X3D_M.pyth"})
    digests = json.loads((fresh / "work/weights.json").read_text())
    (fresh / "work/weights.json").write_text(json.dumps(digests | {"x3d_m": sha256(page.read_bytes()).hexdigest()}))
    monkeypatch.chdir(fresh)
    with pytest.raises(UserError, match=r"X3D_M.pyth: not a PyTorch checkpoint.*; to download it again: delete"):
        initial(Study.load().trainings("x3d_m")[0])


def test_other_parameters_never_go_on_from_a_state(fresh):
    process = start(*TRAIN, cwd=fresh)
    wait_for_an_epoch(process, fresh, {})
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = epochs(fresh)
    set_params(fresh, frames=[1], **{"train.epochs": 1, "train.lr": 0.02})
    run(*TRAIN, cwd=fresh)
    assert epochs(fresh) == left
    assert pd.read_csv(fresh / "work/x3d_m/curves.csv")["lr"].tolist() == [0.02]


def test_in_cross_validation_every_clip_is_tested_once_by_a_network_that_has_not_seen_its_group(fresh, monkeypatch):
    set_params(fresh, frames=[1], **{"datasets.folder.split.folds": 3, "train.epochs": 1})
    run("python", "-m", "framebudget.split", cwd=fresh)
    run(*TRAIN, cwd=fresh)
    assert list(digests(fresh)) == ["1f-s0-k0.pt", "1f-s0-k1.pt", "1f-s0-k2.pt", "curves.csv"]
    assert pd.read_csv(fresh / "work/x3d_m/curves.csv")["fold"].tolist() == [0, 1, 2]
    monkeypatch.chdir(fresh)
    study = Study.load()
    predictions = pd.concat([predict(training, lambda *_: None).predictions for training in study.trainings("x3d_m")])
    assert sorted(predictions["clip"]) == sorted(study.split["clip"].unique())


def same_curve(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    numbers = one.select_dtypes("number").columns
    return len(one) == len(other) and (one[numbers] - other[numbers]).abs().max().max() < 1e-5


def test_two_processes_learn_what_one_does_and_survive_the_death_of_one(fresh, trained):
    """9 clips to train and 3 to validate with, uneven on two ranks; the batch is shared, its statistics too."""
    set_params(fresh, **TWO)
    with ranks(fresh) as (process, second):
        wait_for_an_epoch(process, fresh, {})
        os.kill(second.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode
    assert "error: another rank has died" in output
    assert "Traceback" not in output

    run(*TRAIN, cwd=fresh)
    assert same_curve(curve(fresh), curve(trained))
    assert sorted(digests(fresh)) == ["2f-s0.pt", "curves.csv"]


def test_two_nodes_under_torchrun_learn_what_one_process_does(fresh, trained):
    set_params(fresh, **TWO | {"trainer.devices": 1, "trainer.num_nodes": 2})
    port = free_address().rpartition(":")[2]
    agents = [
        start(
            "torchrun", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1", "--master-addr=127.0.0.1",
            f"--master-port={port}", "--no-python", *TRAIN, cwd=fresh,  # -m would start sys.executable
        )
        for node in (0, 1)
    ]  # fmt: skip
    said = [agent.communicate(timeout=120)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert same_curve(curve(fresh), curve(trained))


def test_a_rank_that_hangs_ends_the_training_after_the_timeout(fresh):
    seconds = 10  # the ranks wait for each other at the start, too
    set_params(fresh, **TWO | {"trainer.timeout": seconds, "train.epochs": 1000, "train.patience": 1000})
    with ranks(fresh) as (process, second):
        wait_for_an_epoch(process, fresh, {})
        assert process.poll() is None, process.communicate()[0]
        os.kill(second.pid, signal.SIGSTOP)
        output, _ = process.communicate(timeout=seconds + 30)
    assert f"has not answered for {seconds} s (trainer.timeout)" in output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (TWO | {"train.batch_size": 5}, "train.batch_size: 5 is not a multiple of 2 devices"),
        (TWO | {"trainer.devices": 4}, "trainer.devices: 4 is too many for 3 validation clips"),
        ({"train.optimizer": "Magic"}, "train.optimizer: torch rejects Magic"),
        ({"train.lr": 1e30, "train.optimizer": "SGD"}, "loss is nan in epoch 0, step 1; lower the learning rate"),
    ],
)
def test_what_cannot_be_is_said(fresh, change, says):
    set_params(fresh, **change)
    result = run(*TRAIN, cwd=fresh, check=False)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not (fresh / "work/x3d_m").exists()
    client = MlflowClient(f"sqlite:///{fresh / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("folder").experiment_id], "run_name LIKE 'x3d_m-%'")
    assert bool(runs) == ("epoch" in says)  # bad parameters are an error before MLflow gets a run


TASK = {"SLURM_JOB_NAME": "batch", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


def test_a_task_of_slurm_may_be_a_study_of_its_own(fresh):
    set_params(fresh, frames=[1], **{"train.epochs": 1})
    run(*TRAIN, cwd=fresh, **TASK)
    assert sorted(digests(fresh)) == ["1f-s0.pt", "curves.csv"]


@pytest.mark.parametrize("tasks", [{}, {"SLURM_NTASKS_PER_NODE": "2"}])
def test_several_tasks_of_slurm_do_not_become_ranks_of_one_training(fresh, monkeypatch, tasks):
    monkeypatch.chdir(fresh)
    for name, value in (TASK | tasks).items():
        monkeypatch.setenv(name, value)
    trainer = trainer_of(Study.load().trainings("x3d_m")[0], [])
    assert (trainer.world_size, trainer.global_rank) == (1, 0)


def test_windows_that_are_all_the_whole_clip_are_an_error(fresh):
    set_params(fresh, **{"datasets.folder.evaluate.views": 3})
    said = run(*TRAIN, cwd=fresh, check=False).stderr
    assert "evaluate.views: every window is the whole clip; set it to 1, or set input.window" in said


def test_several_processes_of_a_launcher_need_as_many_devices(fresh):
    """Lightning would train alone in each of them, all in one folder."""
    said = run(*TRAIN, cwd=fresh, check=False, WORLD_SIZE="2", RANK="1", LOCAL_RANK="1").stderr
    assert "launcher starts 2 processes, but trainer.devices is 1; set it to 2" in said


def test_a_fourth_seed_takes_the_others_from_the_store_and_they_are_the_bytes_of_training_again(fresh, trained):
    """Another budget and another order of them, too; and one that was damaged is trained again."""
    set_params(fresh, frames=[2])
    run(*TRAIN, cwd=fresh)
    (weights,) = fresh.glob("work/trainings/*/2f-s0.pt")
    set_params(fresh, frames=[2, 1], seeds=[0])
    said = run(*TRAIN, cwd=fresh).stdout
    assert "X3D-M 2f-s0: trained before; taken from work/trainings" in said
    assert digests(fresh)["2f-s0.pt"] == digests(trained)["2f-s0.pt"]
    assert curve(fresh).equals(curve(trained))
    client = MlflowClient(f"sqlite:///{fresh / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("folder").experiment_id], "run_name = 'x3d_m-2f-s0'")
    taken, before = (found.data for found in runs)
    assert taken.tags["mlflow.parentRunId"] != before.tags["mlflow.parentRunId"]
    assert taken.tags["framebudget.trained_sha256"] == before.tags["framebudget.trained_sha256"]
    assert {name: taken.metrics[name] for name in LOSSES} == pytest.approx(
        {name: before.metrics[name] for name in LOSSES}, rel=1e-5
    )  # the curve has six digits
    assert len(client.search_model_versions("name = 'framebudget-x3d_m'")) == 2  # its model was registered once

    weights.write_bytes(weights.read_bytes()[:-1])
    said = run(*TRAIN, cwd=fresh).stdout
    assert "X3D-M 2f-s0: damaged in work/trainings; training it again" in said
    assert digests(fresh)["2f-s0.pt"] == digests(trained)["2f-s0.pt"]


def test_ctrl_c_ends_all_trainings_at_once_and_the_next_command_resumes_them(fresh, trained):
    """The signal reaches the command alone, as from `kill`; a terminal sends it to the others too."""
    set_params(fresh, side_by_side=2, **{"train.epochs": 4})
    process = start(*TRAIN, cwd=fresh)
    while process.poll() is None and len(epochs(fresh)) < 2:
        time.sleep(0.01)
    others = [int(path.name) for path in Path("/proc").glob("[0-9]*") if group(path) == process.pid]
    assert len(others) > 2
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert [number for number in others if group(Path(f"/proc/{number}")) == process.pid] == []
    set_params(fresh, side_by_side=1)
    run(*TRAIN, cwd=fresh)
    assert digests(fresh) == digests(trained)


def group(process: Path) -> int:
    """Of a process; 0 if it has ended, even if nobody has asked for its status."""
    try:
        state, _, number, *_ = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state in "ZX" else int(number)
