"""Clips and repositories that the tests share; real clips are in ../shared, or FRAMEBUDGET_SHARED."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import yaml

from framebudget.sources import download
from framebudget.sources.motion import ACTIONS, draw_scene, render, write_clip
from tests.forked import Forked, as_module, stand_in
from tests.server import serving

ROOT = Path(__file__).parents[1]
if not Path("/dev/nvidiactl").exists() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # before Triton is imported
    os.environ["TRITON_INTERPRET"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it, and so its children
hypothesis.settings.register_profile("same every time", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same every time")
LONGEST = [  # files, the longest first
    "test_pipeline.py", "test_train.py", "commands/test_verify.py", "learning/test_tracking.py", "video/test_index.py",
    "hostile/test_names.py", "test_sentences.py", "test_paper.py", "models/test_gpu.py", "commands/test_export.py",
    "learning/test_golden.py",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, for two processes to end together. Mark them, and files that use `run`, as long."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    for item in items:
        if item.path in place or hasattr(item.module, "run"):
            item.add_marker("long")
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """48 frames of 112×84 pixels."""
    path = tmp_path_factory.mktemp("clip") / "turn.avi"
    write_clip(path, render(draw_scene(1), "SpinClockwise"))
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    return motion_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An mlflow.db without a run. MLflow needs seconds to make its tables."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def server(monkeypatch):
    """A web server on loopback; pauses and timeouts of what asks it are short."""
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    with serving() as server:
        yield server


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """The environment in which S3 is a server on loopback, with a bucket called frames."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    there = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
    boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1"
    ).create_bucket(Bucket="frames")
    yield there
    server.stop()


@pytest.fixture
def browser():
    """Debian's chromium."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("no browser (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def system_font(monkeypatch, tmp_path):
    """The fonts of the system: none, and a function that installs one that has these letters."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    from framebudget.report import names

    files = []
    monkeypatch.setattr(names, "findSystemFonts", lambda: files)
    names.font_of.cache_clear()

    def install(letters: str) -> Path:
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0)), pen.lineTo((0, 800)), pen.lineTo((800, 0)), pen.closePath()
        glyphs = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
        font = FontBuilder(1000)
        font.setupGlyphOrder(glyphs)
        font.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
        font.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
        font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
        font.setupHorizontalHeader(ascent=800, descent=-200)
        font.setupNameTable({"familyName": "Test Han", "styleName": "Regular", "psName": "TestHan"})
        font.setupOS2()
        font.setupPost()
        font.save(tmp_path / "han.ttf")
        files.append(str(tmp_path / "han.ttf"))
        names.font_of.cache_clear()
        return tmp_path / "han.ttf"

    yield install
    names.font_of.cache_clear()
    known = names.fontManager  # of matplotlib; another test's font has the same name and other letters
    known.ttflist = [font for font in known.ttflist if font.name != "Test Han"]
    known._findfont_cached.cache_clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("FRAMEBUDGET_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no real clips: neither ../shared nor FRAMEBUDGET_SHARED is there")
    return folder


def run(*command: str, cwd: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess:
    """Run a command as a user would, with this environment's programs first on the PATH; more: its environment.

    A module of ours runs in a forked process (tests/forked.py), but for variables that only a new one would see. So
    do the stages that it, dvc and make start; not those that bash starts with a limit, or setpriv with fewer rights.
    """
    may_fork = not any(name.startswith(("LD_", "PYTHON")) for name in more.keys() - {"PYTHONPATH"})
    programs = [stand_in()] if may_fork and command[0] in ("dvc", "make", "python") else []
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*programs, str(Path(sys.executable).parent), os.environ["PATH"]]),
        "NO_COLOR": "1",
        "DVC_NO_ANALYTICS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # the same everywhere; tests/models/test_gpu.py and test_golden.py are for GPUs
        **more,
    }
    if may_fork and (module := as_module(command)):
        process = Forked(module, cwd, environment, together=False)
        out, err = process.communicate()
        result = subprocess.CompletedProcess(command, process.returncode, out, err)
    else:
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    if check and result.returncode:
        raise AssertionError(f"{command} failed:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    return result


def copied(folder: Path, to: Path) -> Path:
    """A copy of a study. Weights and DVC's cache are links: nothing writes into these files, but replaces them."""

    def copy(source: str, target: str) -> None:
        fixed = source.endswith(".pt") or "/.dvc/cache/" in source
        (os.link if fixed else shutil.copy2)(source, target)

    return shutil.copytree(folder, to, symlinks=True, copy_function=copy)


def set_params(repository, **changes):
    """Set params by their dotted names."""
    path = repository / "params.yaml"
    content = yaml.safe_load(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A fresh repository with the files of this one; its clips are pulled. For all tests: none may change it."""
    folder = fresh_repository(tmp_path_factory.mktemp("repository"))
    run("dvc", "pull", "-q", "data.dvc", cwd=folder)
    return folder


def fresh_repository(folder: Path) -> Path:
    """A repository with the files of this one, as they are now, and one commit."""
    for name in run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run("git", "init", "-q", cwd=folder)
    run("git", "config", "user.name", "t", cwd=folder)
    run("git", "config", "user.email", "t@example.org", cwd=folder)
    run("git", "add", "-A", cwd=folder)
    run("git", "commit", "-qm", "all", cwd=folder)
    return folder


def ready_to_train(clips: Path, folder: Path, **changes) -> Path:
    """The folder, with these clips fetched and split: 9 to train on, 3 to validate with; batches of 4."""
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(
        folder, dataset="folder", clips=str(clips), side_by_side=1, **{
            "train.batch_size": 4, "trainer.save_every": 0, "datasets.folder.fetch.group": r"_(g\d+)_",
            "datasets.folder.input.short_side": 40, "datasets.folder.input.crop": 32,
        }, **changes,
    )  # fmt: skip
    for stage in ("fetch", "split"):
        run("python", "-m", f"framebudget.{stage}", cwd=folder)
    return folder


def motion_clips(folder: Path) -> Path:
    """A folder of three classes and five groups, 30 frames each."""
    for action in ACTIONS[:3]:
        (folder / action).mkdir(parents=True)
        for number in range(1, 6):
            frames = render(draw_scene(number), action)[:30]
            write_clip(folder / action / f"v_{action}_g{number:02d}_c01.avi", frames)
    return folder


def decode_all(path: Path) -> np.ndarray:
    """Every frame in order, by the plainest means: the truth that the reader is held against."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
