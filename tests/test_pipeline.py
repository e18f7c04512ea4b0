"""The real commands, from clips to the PDF, at a tiny size; and what they do with bad input."""

import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient

from framebudget.console import sha256
from tests.conftest import ROOT, copied, fresh_repository, run, set_params
from tests.server import answering, free_address

OUTPUTS = ["work/manifest.csv", "work/split.csv", "work/x3d_m/curves.csv", "work/slowfast_r50/2f-s0.pt",
           "work/predictions.csv", "work/metrics.json", "work/tables/results.tex", "work/figures/teaser.svg",
           "paper/paper.pdf"]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory, clips):
    """A finished study of our own clips: 2 frames, one epoch, 32 pixels."""
    repository = fresh_repository(tmp_path_factory.mktemp("study"))
    run("dvc", "pull", "-q", "data.dvc", cwd=repository)
    set_params(
        repository,
        dataset="folder", clips=str(clips), frames=[2], workers=0, side_by_side=1, **{
            "train.epochs": 1,
            "datasets.folder.fetch.group": r"_(g\d+)_",
            "datasets.folder.input.short_side": 32, "datasets.folder.input.crop": 32,
            "datasets.folder.evaluate.views": 2, "datasets.folder.input.window": 1.0,
        },
    )  # fmt: skip
    run("dvc", "repro", cwd=repository)
    return repository


def test_every_output_is_there_and_nothing_half_written(study):
    assert all((study / name).stat().st_size for name in OUTPUTS)
    assert (study / "paper/paper.pdf").read_bytes().startswith(b"%PDF")
    assert not [path for path in study.rglob("*partial*") if ".dvc" not in path.parts]
    assert all((folder / "finished.json").exists() for folder in (study / "work/trainings").iterdir())


def test_predictions_hold_one_row_a_test_clip_and_model(study):
    predictions = pd.read_csv(study / "work/predictions.csv")
    split = pd.read_csv(study / "work/split.csv")
    test = set(split.loc[split["subset"] == "test", "clip"])
    assert list(predictions.columns[:7]) == ["model", "frames", "seed", "clip", "group", "label", "prediction"]
    for _, rows in predictions.groupby("model"):
        assert set(rows["clip"]) == test
        assert len(rows) == len(test)
    assert predictions.filter(like="p_").sum(axis=1).between(0.999, 1.001).all()
    best = predictions.filter(like="p_").idxmax(axis=1).str.removeprefix("p_")
    assert (best == predictions["prediction"]).all()
    accuracy = (predictions["label"] == predictions["prediction"]).groupby(predictions["model"]).mean()
    metrics = json.loads((study / "work/metrics.json").read_text())["accuracy"]
    assert metrics == pytest.approx(accuracy.to_dict())


def test_mlflow_holds_a_run_a_training(study):
    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("folder")
    runs = {r.info.run_name: r.data for r in client.search_runs([experiment.experiment_id])}
    (study_of_them,) = runs.keys() - {"x3d_m-2f-s0", "slowfast_r50-2f-s0"}
    results = pd.read_csv(study / "work/tables/results.csv").set_index("model")["accuracy"]
    for model, accuracy in results.items():
        assert runs[f"{model}-2f-s0"].metrics["test_accuracy"] == pytest.approx(accuracy, abs=1e-5)
        assert runs[study_of_them].metrics[f"test_accuracy.{model}.2"] == pytest.approx(accuracy, abs=1e-5)
        version = client.get_model_version_by_alias(f"framebudget-{model}", "best-folder")
        run_id = version.run_id
        assert client.get_run(run_id).data.tags["framebudget.trained_sha256"] == sha256(
            study / f"work/{model}/2f-s0.pt"
        )
        assert {file.path for file in client.list_artifacts(run_id)} >= {"confusion.png", "strip.png"}
    assert runs["x3d_m-2f-s0"].params["frames"] == "2"
    assert 0 <= runs["x3d_m-2f-s0"].metrics["val_accuracy"] <= 1
    assert runs["x3d_m-2f-s0"].metrics["clips_per_second"] > 0
    assert runs["x3d_m-2f-s0"].tags["dvc.stage"] == "train_x3d"


@pytest.fixture(scope="module")
def ui(study):
    """Where `make ui` answers."""
    address = free_address()
    with answering(["make", "-o", ".venv/ready", "ui", f"PORT={address.rpartition(':')[2]}"], study, address):
        yield address


def test_make_ui_shows_the_runs_to_a_browser(study, ui, browser):
    """Sorted by test accuracy, which is a column; a run's page with parameters, model, curves and pictures."""
    page = browser.new_page(viewport={"width": 2400, "height": 2400})
    page.set_default_timeout(120_000)  # a busy machine
    page.goto(re.search(rf"^Open ({ui}/\S+)$", (study / "server.log").read_text(), re.MULTILINE)[1])
    for button in ("Sort", "Columns"):
        page.get_by_role("button", name=button).click()
        page.get_by_placeholder("Search").last.fill("test_accuracy")
        page.get_by_text("test_accuracy", exact=True).last.click()
        page.keyboard.press("Escape")
    assert "orderByKey=metrics.%60test_accuracy%60&orderByAsc=false" in page.url
    for name in ("slowfast_r50-2f-s0", "x3d_m-2f-s0"):
        page.get_by_role("link", name=name).wait_for()
    for accuracy in pd.read_csv(study / "work/tables/results.csv")["accuracy"]:
        page.get_by_text(f"{accuracy:.3f}"[:5]).first.wait_for()
    page.get_by_role("link", name="x3d_m-2f-s0").click()
    for text in ("train.optimizer", "test_macro_f1", "framebudget-x3d_m", "Parent run"):
        page.get_by_text(text).first.wait_for()
    page.get_by_text("Model metrics").click()
    page.get_by_text("val_accuracy").first.wait_for()
    page.get_by_text("Artifacts").click()
    page.get_by_text("strip.png").first.click()
    picture = page.locator("img[src^='blob:']").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 200


def test_make_ui_listens_on_this_machine_alone(ui):
    port = int(ui.rpartition(":")[2])
    lines = [line for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    found = [line.split()[1] for line in lines if line.split()[3] == "0A"]  # addresses that something listens on
    assert [local for local in found if local.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_nothing_changed_nothing_runs(study):
    assert "Data and pipelines are up to date" in run("dvc", "repro", cwd=study).stdout


def test_a_remote_on_s3_brings_data_networks_and_run_cache(study, s3, tmp_path):
    """One line of .dvc/config is another, and AWS_ENDPOINT_URL says where S3 is if it is not Amazon's."""
    folder = copied(study, tmp_path / "study")
    config = folder / ".dvc/config"
    assert config.read_text().count("url = ../remote") == 1
    config.write_text(config.read_text().replace("url = ../remote", "url = s3://frames/budget"))
    run("dvc", "push", "-q", cwd=folder, **s3)
    run("dvc", "push", "-q", "--run-cache", cwd=folder, **s3)
    before = {path: path.read_bytes() for path in (folder / "work/x3d_m").iterdir()}
    for gone in (".dvc/cache", "work", "data/motion"):
        shutil.rmtree(folder / gone)
    run("dvc", "pull", "-q", cwd=folder, **s3)
    assert {path: path.read_bytes() for path in before} == before
    for gone in (".dvc/cache", "work"):
        shutil.rmtree(folder / gone)
    (folder / "dvc.lock").unlink()
    run("dvc", "pull", "-q", "--run-cache", "data.dvc", cwd=folder, **s3)
    said = run("dvc", "repro", "--pull", "train_x3d", cwd=folder, **s3).stdout
    assert "Stage 'train_x3d' is cached - skipping run, checking out outputs" in said
    assert {path: path.read_bytes() for path in before} == before


def test_dvc_shows_metrics_and_plots(study):
    assert "accuracy" in run("dvc", "metrics", "show", cwd=study).stdout
    run("dvc", "plots", "show", cwd=study)
    page = (study / "dvc_plots/index.html").read_text()
    assert "Accuracy against frames" in page
    assert "Learning curves" in page


def test_a_trained_network_names_the_classes_of_a_video(study, clips):
    lines = run("framebudget", "predict", str(next(clips.glob("*/*.avi"))), cwd=study).stdout.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r" *\d+\.\d%  (Approach|Recede|SpinClockwise)", lines[0])


@pytest.mark.slow  # test_verify has the same bytes from two clones
def test_forced_again_every_output_is_the_same_bytes(study):
    before = (study / "dvc.lock").read_text()
    run("dvc", "repro", "--force", cwd=study)
    assert (study / "dvc.lock").read_text() == before


def test_ucf101_comes_from_a_server_and_so_do_the_weights(study, clips, server, tmp_path, monkeypatch):
    """A zip over HTTP, an official test list, weights from the network, the published protocol, and the sound one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    folder = copied(study, tmp_path / "ucf101")
    with zipfile.ZipFile(tmp_path / "UCF101_videos.zip", "w") as archive:
        for path in sorted(clips.rglob("*.avi")):
            group = {"g01": "g01", "g02": "g08", "g03": "g09", "g04": "g15", "g05": "g16"}[path.stem.split("_")[2]]
            archive.write(path, f"UCF101/v_{path.parent.name}_{group}_c01.avi")
    server.files["UCF101_videos.zip"] = (tmp_path / "UCF101_videos.zip").read_bytes()
    server.files["X3D_M.pyth"] = (study / "work/x3d_m/2f-s0.pt").read_bytes()
    set_params(folder, dataset="ucf101", clips="data", protocol="published", frames=[1], **{
        "datasets.ucf101.fetch.archive": server.url + "UCF101_videos.zip",
        "datasets.ucf101.fetch.classes": ["Approach", "Recede"],
        "datasets.ucf101.x3d_m.weights": server.url + "X3D_M.pyth", "datasets.ucf101.slowfast_r50.weights": None,
        "datasets.ucf101.input.short_side": 32, "datasets.ucf101.input.crop": 32,
    })  # fmt: skip
    run("dvc", "repro", "train_x3d", cwd=folder)
    digest = sha256(study / "work/x3d_m/2f-s0.pt")
    assert f"x3d_m: {digest}" in (folder / "dvc.lock").read_text()
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("ucf101").experiment_id], "params.model = 'x3d_m'")
    logged = found.data.params
    assert (logged["weights_sha256"], logged["protocol"]) == (digest, "published")
    assert (logged["seconds"], logged["frames"], logged["input.window"]) == ("1", "16", "1.0")  # as training used it
    assert list(pd.read_csv(folder / "work/x3d_m/curves.csv").columns[:3]) == ["model", "seconds", "seed"]
    split = pd.read_csv(folder / "work/split.csv")
    assert split["subset"].value_counts().to_dict() == {"train": 5, "validation": 4, "test": 1}
    second = {f"{name}_{group}" for name in ("Approach", "Recede") for group in ("g08", "g09")}
    assert set(split.loc[split["subset"] == "validation", "group"]) == second

    set_params(folder, protocol="sound")
    said = run("dvc", "repro", "split", cwd=folder).stdout
    assert "0 of 4 test clips share their group" in said
    split = pd.read_csv(folder / "work/split.csv")
    assert set(split.loc[split["subset"] == "test", "group"]) == second
    assert {"Approach", "Recede"} == {path.name for path in (folder / "data/ucf101").iterdir()}


@pytest.mark.parametrize(
    ("stage", "change", "says"),
    [
        ("fetch", {"frames": 0}, "frames.0"),
        ("fetch", {"frames": "abc"}, "frames.0"),
        ("fetch", {"clips": "nowhere"}, "nowhere: no such folder"),
        ("fetch", {"clips": "text"}, r"text/a/1.avi: cannot be opened as a video"),
        ("fetch", {"clips": "cut"}, r"cut/a/1.avi: truncated"),
        ("fetch", {"clips": "empty"}, r"empty/b: no video in this class"),
        ("train x3d_m", {"datasets.folder.x3d_m.weights": "slowfast.pt"}, "slowfast.pt: weights of another network"),
        ("train x3d_m", {"datasets.folder.x3d_m.weights": "text/a/1.avi"}, "1.avi: not a PyTorch checkpoint"),
        ("train x3d_m", {"datasets.folder.x3d_m.weights": "changed.pt"}, "changed.pt: not the weights that"),
        ("fetch", {"datasets.folder.x3d_m.weights": "nowhere.pt"}, "nowhere.pt: no such weight file"),
    ],
)
def test_bad_input_ends_a_stage_with_one_clear_message(study, clip, stage, change, says, tmp_path):
    copied(study / "work", tmp_path / "work")
    shutil.rmtree(tmp_path / "work/trainings")  # where the trainings are found, given weights are not looked at
    shutil.copy(study / "params.yaml", tmp_path)
    set_params(tmp_path, **{"datasets.folder.fetch.group": None}, **change)
    for folder in ("text", "cut", "empty"):
        for name in "ab":
            (tmp_path / folder / name).mkdir(parents=True)
            if folder + name != "emptyb":
                shutil.copy(clip, tmp_path / folder / name / "1.avi")
    (tmp_path / "text/a/1.avi").write_text("no video")
    (tmp_path / "cut/a/1.avi").write_bytes(clip.read_bytes()[:9000])
    for name in ("slowfast.pt", "changed.pt"):
        os.link(study / "work/slowfast_r50/2f-s0.pt", tmp_path / name)
    weights = tmp_path / change.get("datasets.folder.x3d_m.weights", "none")
    if weights.exists() and weights.name != "changed.pt":  # fetch has seen it
        (tmp_path / "work/weights.json").write_text(json.dumps({"x3d_m": sha256(weights)}))
    output = tmp_path / "work" / ("manifest.csv" if stage == "fetch" else "x3d_m/curves.csv")
    before = output.read_bytes()
    result = run("python", "-m", *f"framebudget.{stage}".split(), cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert re.search(says, result.stderr)
    assert "Traceback" not in result.stderr
    assert output.read_bytes() == before


def test_an_experiment_at_another_budget_is_one_command(study):
    run("git", "add", "-A", cwd=study)
    run("git", "commit", "-qm", "tiny", cwd=study)
    run("dvc", "exp", "run", "-n", "three", "-S", "frames=3", cwd=study)
    assert set(pd.read_csv(study / "work/predictions.csv")["frames"]) == {3}
    dropped = re.search(r"--drop '(.*)'", (ROOT / "Makefile").read_text())[1].replace("$$", "$")  # by make experiments
    shown = run("dvc", "exp", "show", "--csv", "--drop", dropped, cwd=study).stdout
    table = pd.read_csv(io.StringIO(shown)).set_index("Experiment")
    assert table.loc["three", "frames"] == "3"
    assert not [column for column in table.columns if (study / column).exists()]  # a hash of a file
    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("folder")
    found = client.search_runs([experiment.experiment_id], "tags.`dvc.exp_name` = 'three'")
    assert {r.info.run_name for r in found} == {"three", "x3d_m-3f-s0", "slowfast_r50-3f-s0"}


def test_a_study_of_one_network_trains_nothing_again_and_goes_through_to_its_paper(study):
    """The other network's stage succeeds at once, without its weights being looked for."""
    (trained,) = (study / "work/x3d_m").glob("*.pt")
    before = sha256(trained), (study / "params.yaml").read_text()
    changes = ["models=[x3d_m]", "datasets.folder.slowfast_r50.weights=nowhere.pt"]
    said = run("dvc", "exp", "run", "-n", "one", *(f"-S{change}" for change in changes), cwd=study).stdout
    try:
        assert "Stage 'train_x3d' didn't change, skipping" in said
        assert "not in `models` (params.yaml): nothing to train" in said
        assert sha256(trained) == before[0]
        assert [path.name for path in (study / "work/slowfast_r50").iterdir()] == ["curves.csv"]
        assert set(pd.read_csv(study / "work/predictions.csv")["model"]) == {"x3d_m"}
        assert "slowfast_r50" not in json.loads((study / "work/figures/figures.json").read_text())
        assert (study / "paper/paper.pdf").read_bytes().startswith(b"%PDF")
        run("dvc", "plots", "show", cwd=study)
    finally:
        (study / "params.yaml").write_text(before[1])
        run("dvc", "repro", cwd=study)


TINY = """
from torch import nn

from framebudget.models.layers import GlobalMean
from framebudget.models.network import Network


class Tiny(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        stem, head = nn.Conv3d(3, 8, 3, padding=1), nn.Sequential(GlobalMean(), nn.Flatten(), nn.Linear(8, classes))
        self.blocks = nn.ModuleList([stem, nn.Sequential(nn.ReLU(), nn.Conv3d(8, 8, 3, padding=1)), head])

    def forward(self, clips_BCTHW):
        for block in self.blocks:
            clips_BCTHW = block(clips_BCTHW)
        return clips_BCTHW


NETWORK = Network("tiny", "Tiny", Tiny, head="blocks.2.2.")
"""


def test_a_network_is_added_by_a_file_an_entry_and_a_stage(clips, tmp_path):
    """Cross-validated, with two trainings at once: every test clip counts once in the tables."""
    folder = fresh_repository(tmp_path)
    (folder / "src/framebudget/models/tiny.py").write_text(TINY)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["datasets"]["folder"]["tiny"] = params["datasets"]["folder"]["x3d_m"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    set_params(folder, dataset="folder", clips=str(clips), models="tiny", frames=[2, 3], workers=0, side_by_side=2, **{
        "train.epochs": 1, "datasets.folder.fetch.group": r"_(g\d+)_", "datasets.folder.split.folds": 3,
        "datasets.folder.input.short_side": 32, "datasets.folder.input.crop": 32,
    })  # fmt: skip
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages = pipeline["stages"]
    text = json.dumps(stages["train_x3d"]).replace("x3d_m", "tiny")
    stages["train_tiny"] = json.loads(text)
    stages["evaluate"]["deps"].append("work/tiny")
    stages["paper"]["deps"].append("work/tiny/curves.csv")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    run("dvc", "repro", cwd=folder, PYTHONPATH=str(folder / "src"))
    results = pd.read_csv(folder / "work/tables/results.csv")
    assert results[["model", "frames"]].to_numpy().tolist() == [["tiny", 2], ["tiny", 3]]
    predictions = pd.read_csv(folder / "work/predictions.csv")
    assert predictions.groupby("frames")["clip"].agg(["size", "nunique"]).to_numpy().tolist() == [[15, 15], [15, 15]]
    assert len(list((folder / "work/tiny").glob("*.pt"))) == 6
    assert "tiny" in json.loads((folder / "work/figures/figures.json").read_text())
    assert (folder / "paper/paper.pdf").read_bytes().startswith(b"%PDF")


def test_bytecode_is_no_change(study):
    bytecode = study / "src/framebudget/learning/__pycache__/another.pyc"
    bytecode.parent.mkdir(exist_ok=True)
    bytecode.write_bytes(b"another")
    assert "up to date" in run("dvc", "status", cwd=study).stdout


def test_dvc_status_names_what_a_change_concerns(study):
    """A change of a picture makes the figures stale, one of a command nothing."""
    paths = [
        study / "src/framebudget" / file for file in ("report/plots.py", "commands/predict.py", "commands/serving.py")
    ]
    before = [path.read_text() for path in paths]
    for path, text in zip(paths, before, strict=True):
        path.write_text(text + "# a change\n")
    try:
        status = json.loads(run("dvc", "status", "--json", cwd=study).stdout)
    finally:
        for path, text in zip(paths, before, strict=True):
            path.write_text(text)
    assert set(status) == {"figures"}


def test_the_stages_are_exactly_these():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == ["fetch", "split", "train_x3d", "train_slowfast", "evaluate", "figures", "paper"]
