"""What `framebudget doctor` reports when something is missing: the command itself, in folders as people have them."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from framebudget import processor
from framebudget.commands import doctor
from tests.conftest import ROOT, fresh_repository, run, set_params
from tests.server import free_address, serving_mlflow


@pytest.fixture
def examined(tmp_path, monkeypatch, capsys):
    """A function that runs one check in tmp_path, `study` without DVC: (status, what was printed)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def examine(check):
        if check == "study":
            monkeypatch.setattr(doctor, "dvc", lambda embedded: iter(()))
        return doctor.examine(getattr(doctor, check)), capsys.readouterr().out

    return examine


@pytest.fixture
def configured(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_an_empty_folder(tmp_path):
    result = run("framebudget", "doctor", cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "✗ no git repository with a commit here" in result.stdout
    assert "✗ params.yaml is missing; run from the top of the repository\n" in result.stdout
    assert "✓ Python 3" in result.stdout
    assert "Traceback" not in result.stderr
    assert not result.stderr


def test_a_zip_inside_another_repository_needs_no_git_but_dvc_must_know(tmp_path, examined):
    """`make scm` is the advice, and then nothing is missing."""
    fresh_repository(tmp_path)
    run("git", "rm", "-q", "--cached", "dvc.yaml", cwd=tmp_path)
    run("git", "commit", "-qm", "without", cwd=tmp_path)
    assert (
        "✗ no git repository with a commit here (path 'dvc.yaml' exists on disk, but not in 'HEAD')"
        in examined("machine")[1]
    )
    shutil.rmtree(tmp_path / ".git")
    status, text = examined("machine")
    assert status == 0
    assert "✗ no git repository with a commit here (not a git repository" in text
    assert "(not needed now)\n    → cd to the top of a clone; or, for experiments: git init" in text
    status, text = examined("dvc")
    assert status == 1
    assert "is not a git repository\n    → make scm" in text
    run("make", "-o", ".venv/ready", "scm", cwd=tmp_path)
    run("dvc", "pull", "-q", "data.dvc", cwd=tmp_path)
    assert examined("dvc")[0] == 0
    run("git", "init", "-q", cwd=tmp_path)
    run("git", "add", "dvc.yaml", cwd=tmp_path)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "all", cwd=tmp_path)
    status, text = examined("machine")
    assert status == 0
    assert re.search("^✓ git commit [0-9a-f]{7,}$", text, re.MULTILINE)
    assert "✗ .dvc/config.local: no_scm turns DVC's experiments off (not needed now)\n    → make scm" in text


def test_a_clone_without_its_clips_and_then_with_them(repository, tmp_path):
    clone = tmp_path / "clone"
    run("git", "clone", "-q", str(repository), str(clone), cwd=tmp_path)
    result = run("framebudget", "doctor", cwd=clone, check=False)
    assert result.returncode == 1
    assert "✗ data/motion: no such folder" in result.stdout
    assert "✗ data.dvc is not pulled, or its clips were changed\n    → dvc pull data.dvc" in result.stdout
    assert "✓ remote embedded: " in result.stdout
    run("dvc", "pull", "-q", "data.dvc", cwd=clone)
    result = run("framebudget", "doctor", cwd=clone, check=False)
    assert "✓ 600 clips of 5 classes in data/motion" in result.stdout
    assert "✓ data.dvc is pulled" in result.stdout
    assert "out of date: fetch, split, train_x3d, train_slowfast, evaluate, figures, paper" in result.stdout
    assert "\033" not in result.stdout


def test_broken_params_name_the_key(configured, examined):
    set_params(configured, **{"frames": 0, "train.epochs": "many"})
    path = configured / "params.yaml"
    path.write_text(path.read_text().replace("seeds:", "sedes:"))
    status, text = examined("study")
    assert status == 1
    assert "✗ params.yaml: frames.0" in text
    assert "\n    train.epochs: " in text
    assert "\n    seeds: missing\n" in text
    assert "\n    sedes: unknown key\n" in text
    assert text.count("✗") == 1


def test_only_a_missing_package_calls_for_the_environment():
    for error, advice in ((ModuleNotFoundError("mlflow"), "make .venv/ready"), (PermissionError("clips.csv"), "")):

        def check(error=error):
            yield doctor.Finding(True, "one")
            raise error

        one, other = doctor.findings(check)
        assert one.ok
        assert other.advice.startswith(advice)
        assert bool(other.advice) == bool(advice)


def test_a_closed_port_and_an_open_one(examined, monkeypatch, server, tmp_path, empty_store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{closed_port()}")
    status, text = examined("mlflow")
    assert status == 1
    assert "does not answer" in text
    assert "unset MLFLOW_TRACKING_URI" in text
    assert "secret" not in text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://127.0.0.1:{closed_port()}/mlflow")
    assert examined("mlflow")[0] == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.rstrip("/"))  # answers, and is no MLflow
    assert examined("mlflow")[0] == 1
    with serving_mlflow(tmp_path, uri := free_address(), f"sqlite:///{empty_store}"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert examined("mlflow") == (0, f"✓ MLflow: {uri} answers\nnothing is missing\n")


def test_a_store_that_training_would_refuse(examined, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    status, text = examined("mlflow")
    assert status == 1
    assert "it must be a server, http://HOST:PORT" in text


def test_weights_are_a_file_or_in_the_cache_or_come_from_the_network(configured, examined, monkeypatch, server, clips):
    monkeypatch.setenv("TORCH_HOME", str(configured / "cache"))
    set_params(configured, dataset="folder", clips=str(clips), **{"datasets.folder.x3d_m.weights": "nowhere.pt"})
    status, text = examined("study")
    assert status == 1
    assert "✗ weights of x3d_m: nowhere.pt, no such file or folder\n    → -S datasets.folder.x3d_m.weights=FILE" in text
    (configured / "nowhere.pt").touch()
    assert examined("study")[0] == 0
    set_params(configured, **{"datasets.folder.x3d_m.weights": f"http://127.0.0.1:{closed_port()}/x.pyth"})
    assert "does not answer" in examined("study")[1]
    server.files["x.pyth"] = b"weights"
    set_params(configured, **{"datasets.folder.x3d_m.weights": f"{server.url}x.pyth"})
    status, text = examined("study")
    assert status == 0
    assert f"✓ weights of x3d_m: {server.url}x.pyth, reachable" in text


def test_clips_of_a_folder(configured, examined, clips):
    set_params(configured, dataset="folder", clips=str(clips))
    assert f"✓ 15 clips of 3 classes in {clips}:\n       5  Approach\n       5  Recede\n" in examined("study")[1]
    set_params(configured, clips="nowhere")
    status, text = examined("study")
    assert status == 1
    assert "✗ nowhere: no such folder" in text


def test_a_clone_of_another_user_and_a_user_without_a_name_as_in_a_container(tmp_path):
    keep = "+dac_override,+dac_read_search"  # to reach this environment, wherever it is
    user = ["setpriv", "--reuid", "12345", "--clear-groups", "--inh-caps", keep, "--ambient-caps", keep]
    if not shutil.which("setpriv") or subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("no setpriv here, or it may not change the user")
    for up in (tmp_path, *tmp_path.parents[:3]):  # pytest lets nobody else in
        up.chmod(0o755)
    folder = fresh_repository(tmp_path)
    nameless = {"USER": "", "LOGNAME": "", "LNAME": "", "USERNAME": "", "HOME": str(tmp_path)}
    doctor = [sys.executable, "-m", "framebudget.commands.cli", "doctor"]
    said = run(*user, *doctor, cwd=folder, check=False, **nameless).stdout
    assert "dubious ownership" in said
    assert 'git config --global --add safe.directory "$PWD"' in said
    assert "→ export USER=me" in said


def test_packages_that_are_missing_or_too_old(examined, monkeypatch):
    there = {"torch": [SimpleNamespace(version="1.0")], "av": [SimpleNamespace(version="18.1")], "dvc": []}
    asked = ["torch>=2.11", "av<19,>=18", "dvc[s3]>=3.67", 'pytest>=9; extra == "dev"']
    monkeypatch.setattr(doctor.metadata, "requires", {"framebudget": asked}.get)
    monkeypatch.setattr(doctor.metadata, "distributions", lambda name: there[name])
    status, text = examined("packages")
    assert status == 1
    assert "✗ torch: 1.0 is installed, >=2.11 is required" in text
    assert "-m pip install 'torch>=2.11'" in text
    assert "✗ dvc: nothing is installed, >=3.67 is required" in text
    assert "-m pip install 'dvc[s3]>=3.67'" in text
    assert text.count("✗") == 2


def test_a_remote_that_is_gone_is_reported_and_not_needed_where_the_clips_are_there(configured, examined, monkeypatch):
    printed = {"status": "{}", "remote": "mine  \t/nowhere/my remote  (default)\n"}
    monkeypatch.setattr(doctor, "ask", lambda *command: (printed[command[3]], ""))
    status, text = examined("dvc")
    assert status == 0
    assert "✗ remote mine: /nowhere/my remote, no such file or folder (not needed now)" in text


def test_remotes_answer_or_not_and_a_clone_without_clips_knows_it(repository, tmp_path, examined, monkeypatch, s3):
    """`dvc status --cloud` would call all of them in sync."""
    for key, value in s3.items():
        monkeypatch.setenv(key, value)
    run("git", "clone", "-q", str(repository), "clone", cwd=tmp_path)
    gone = f"http://127.0.0.1:{closed_port()}/clips"
    for name, url in {"empty": "s3://frames/no push yet", "lost": "s3://lost/clips", "gone": gone}.items():
        run("dvc", "remote", "add", "-q", name, url, cwd=tmp_path / "clone")
    monkeypatch.chdir(tmp_path / "clone")
    status, text = examined("dvc")
    assert status == 1
    assert "✓ remote embedded: " in text
    assert "✓ remote empty: s3://frames/no push yet, reachable" in text
    assert "✗ remote lost: s3://lost/clips, " in text
    assert "The specified bucket does not exist\n    → for more: dvc list-url remote://lost -v" in text
    assert f"✗ remote gone: {gone}, does not answer" in text


def test_a_running_dvc_is_nothing_missing(configured, examined):
    run("git", "init", "-q", cwd=configured)
    run("dvc", "init", "-q", cwd=configured)
    (configured / "dvc.yaml").write_text(
        "stages: {slow: {cmd: touch begun && sleep 60, deps: [params.yaml], outs: [x]}}"
    )
    other = subprocess.Popen(["dvc", "repro", "-q"], cwd=configured, start_new_session=True)
    while not (configured / "begun").exists():
        assert other.poll() is None
        time.sleep(0.1)
    status, text = examined("dvc")
    os.killpg(other.pid, signal.SIGKILL)
    assert status == 0
    assert "✗ dvc status: " in text
    assert "(not needed now)" in text


def test_a_remote_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(doctor, "REMOTE", 0.01)
    assert "timed out after 0.01 seconds" in doctor.reached("remote slow", "s3://bucket/clips", "", remote="slow").what


def test_trainings_that_need_more_memory_than_there_is(configured, examined, monkeypatch):
    set_params(configured, side_by_side=3, models=["x3d_m"])
    monkeypatch.setattr("framebudget.commands.memory.needed", lambda training: 1000.0 * training.T)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    status, said = examined("memory")
    assert status == 1
    assert "✗ memory: 3 trainings of x3d_m at once need about 30000.0 of" in said  # 6, 8 and 16 frames
    assert "→ lower side_by_side or train.batch_size" in said
    set_params(configured, side_by_side=2)
    assert "2 trainings of x3d_m at once need about 24000.0" in examined("memory")[1]
    set_params(configured, side_by_side=3, frames=8, **{"datasets.motion.split.folds": 5})
    assert "3 trainings of x3d_m at once need about 24000.0" in examined("memory")[1]
    set_params(configured, side_by_side=2, frames=[6, 8, 16], **{"datasets.motion.split.folds": None})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=80e9))
    status, said = examined("memory")
    assert status == 1
    assert "✗ memory: 2 trainings of x3d_m at once need about 24000.0 of 80 GB by an estimate for CPUs" in said
    assert "→ lower per_gpu or train.batch_size" in said
    monkeypatch.setattr("framebudget.commands.memory.needed", lambda training: 3.0 * training.T)
    assert examined("memory")[0] == 0  # 72 GB, of which it may need a third less


def test_the_memory_is_that_of_the_container(tmp_path, monkeypatch):
    all_of_it = processor.memory()
    limits = tmp_path / "memory.max", tmp_path / "none"
    monkeypatch.setattr(processor, "LIMITS", limits)
    for limit, found in (("max\n", all_of_it), ("1000000\n", 1_000_000)):
        limits[0].write_text(limit)
        assert processor.memory() == found


def test_the_store_of_trainings_and_how_to_empty_it(tmp_path, examined):
    assert examined("trainings") == (0, "nothing is missing\n")
    for name, file in (("a", "finished.json"), ("b", "last.ckpt")):
        (tmp_path / "work/trainings" / name).mkdir(parents=True)
        (tmp_path / "work/trainings" / name / file).write_bytes(bytes(200_000_000 if name == "b" else 1))
    os.utime(tmp_path / "work/trainings/a/finished.json", (0, 0))
    os.utime(tmp_path / "work/trainings/a", (time.time() - 3 * 86400,) * 2)
    _, said = examined("trainings")
    assert "✓ work/trainings: 1 finished and 1 unfinished trainings, 0.2 GB, the oldest unused for 3 days" in said
    assert "to empty it: rm -r work/trainings" in said
