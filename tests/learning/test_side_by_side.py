"""Jobs in processes of their own: results, failures, places, and what a log says."""

import os
import shutil
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest

from framebudget import params
from framebudget.console import Bug, UserError
from framebudget.learning import display, side_by_side
from framebudget.learning.display import Display
from framebudget.processor import Machine
from framebudget.study import Study
from tests.conftest import ROOT, set_params

HERE = "tests.learning.test_side_by_side"


def threefold(training, tell):
    tell(1, 2, "half way")
    time.sleep(0.1 * training.T)  # so that the longest, which begins first, ends last
    tell(2, 2, f"{training.T} frames")
    return 3 * training.T, os.getpid()


def troubled(training, tell):
    if training.T == 2:
        raise UserError("lower the learning rate")
    if training.T == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return threefold(training, tell)


def faulty(training, tell):
    return 1 / (training.T - 2)


@pytest.fixture
def study(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    set_params(tmp_path, models=["x3d_m"], frames=[1, 2, 3, 4], side_by_side=3)
    return Study(params.load(), pd.DataFrame({"fold": [0]}))


def run(job, study):
    trainings = study.trainings()
    shown = Display("try", "step", dict.fromkeys(trainings, 2))
    return side_by_side.side_by_side(f"{HERE}:{job}", trainings, shown)


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_the_order_of_the_trainings_from_processes_of_their_own(study, at_once, capsys):
    found = run("threefold", replace(study, params=study.params.model_copy(update={"side_by_side": at_once})))
    assert [number for number, _ in found] == [3, 6, 9, 12]
    processes = {process for _, process in found}
    assert processes == {os.getpid()} if at_once == 1 else len(processes - {os.getpid()}) == 4
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == [f"X3D-M {T}f-s0: {T} frames" for T in (1, 2, 3, 4)]


def test_those_that_fail_are_named_with_their_errors_and_the_others_end(study, capsys):
    with pytest.raises(UserError) as raised:
        run("troubled", study)
    first, second, last = str(raised.value).splitlines()
    assert first == "X3D-M 2f-s0: lower the learning rate"
    assert second.startswith("X3D-M 3f-s0: killed by SIGKILL; if memory ran out, lower side_by_side")
    assert last == "2 of 4 failed; after a repair, the same command runs only what is missing"
    said = capsys.readouterr().out
    assert {f"X3D-M {T}f-s0: {T} frames" for T in (1, 4)} <= set(said.splitlines())


def test_the_debug_switch_shows_where_a_training_failed(study, monkeypatch):
    monkeypatch.setenv("FRAMEBUDGET_DEBUG", "1")
    with pytest.raises(UserError, match=r"Traceback(.|\n)*in troubled(.|\n)*UserError: lower the learning rate"):
        run("troubled", study)


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_bug_keeps_its_traceback(study, at_once):
    with pytest.raises(Bug, match=r"X3D-M 2f-s0: Traceback(.|\n)*in faulty(.|\n)*ZeroDivisionError"):
        run("faulty", replace(study, params=study.params.model_copy(update={"side_by_side": at_once})))


def test_cores_and_gpus_are_filled_or_a_number_is_taken(study, monkeypatch):
    def places(gpus=0, **changes):
        monkeypatch.setattr(side_by_side, "this_machine", lambda: Machine("x", gpus, False))
        set_params(study_folder, **changes)
        return [place.get("CUDA_VISIBLE_DEVICES") for place in side_by_side.places(params.load())]

    study_folder = params.Path.cwd()
    monkeypatch.setattr(side_by_side, "cores", lambda: 7)
    assert places(side_by_side="auto") == [None] * 7
    assert places(**{"trainer.threads": 2}) == [None] * 3
    assert places(**{"trainer.threads": 8}) == [None]
    assert places(2, per_gpu=2) == ["0", "1", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert places(2, side_by_side=3) == ["3", "5", "3"]


def test_a_log_is_never_silent_for_a_minute(study, monkeypatch, capsys):
    assert display.SILENCE < 60
    monkeypatch.setattr(display, "SILENCE", 0)
    first, second, *_ = trainings = study.trainings()
    with Display("train x3d_m", "epoch", dict.fromkeys(trainings, 24)) as shown:
        shown.teller(first)(3.5, 24, "")
        shown.end(second)
        shown.tick()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train x3d_m: 0 of 4 done, 1f-s0 epoch 3.5 of 24"
    assert lines[2] == "train x3d_m: 1 of 4 done, 1f-s0 epoch 3.5 of 24"
