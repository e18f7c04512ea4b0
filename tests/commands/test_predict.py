"""Videos, folders and streams of names; windows over a long video; by a network of any origin."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys

import av
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from framebudget import params
from framebudget.commands import predict, serving
from framebudget.models import NETWORKS, weights
from framebudget.models.replay import Replay
from framebudget.sources.motion import draw_scene, render, write_clip
from framebudget.video.container import ClipError
from framebudget.video.reader import glance, read_frames, stream_frames
from tests.conftest import ROOT, run

CLASSES = ["Approach", "Recede", "SpinClockwise"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with work/x3d_m, as a study leaves it: two budgets, untrained."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "work/x3d_m").mkdir(parents=True)
    torch.manual_seed(0)
    for T in (2, 4):
        input = params.load(ROOT / "params.yaml").input("x3d_m").model_dump() | {"window": 0.8}
        network = NETWORKS["x3d_m"].build(3)
        path = folder / f"work/x3d_m/{T}f-s0.pt"
        weights.save(path, network, model="x3d_m", frames=T, classes=CLASSES, input=input)
    return folder


@pytest.fixture
def network(work):
    return serving.load(work / "work/x3d_m/4f-s0.pt")


def printed(work, *arguments: str, **more) -> list[str]:
    return run("framebudget", "predict", *arguments, cwd=work, **more).stdout.splitlines()


def test_a_folder_as_systems_leave_it(tmp_path):
    names = ["a/x.mp4", "a/._x.mp4", "__MACOSX/a/._x.mp4", ".Trash-1000/files/y.mp4", "notes.txt", "z.MKV"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert predict.videos_of([str(tmp_path)]) == [tmp_path / "a/x.mp4", tmp_path / "z.MKV"]


def test_one_video_several_and_a_folder(work, clips):
    videos = sorted(clips.glob("Recede/*.avi"))
    lines = printed(work, str(videos[0]))
    assert [line.split()[1] for line in lines] == sorted(CLASSES, key=[line.split()[1] for line in lines].index)
    assert sum(float(line.split("%")[0]) for line in lines) == pytest.approx(100, abs=0.2)
    by_name = printed(work, *map(str, videos), "--top", "1")
    assert by_name[::2] == list(map(str, videos))
    assert by_name[1] == lines[0]
    assert printed(work, str(clips / "Recede"), "--top", "1") == by_name


def test_a_table_has_a_row_for_each_video_or_window_and_a_column_for_each_class(work, clips, tmp_path):
    videos = sorted(clips.glob("Recede/*.avi"))[:2]
    odd = shutil.copy(videos[0], tmp_path / "=1+1.avi")
    result = run(
        "framebudget",
        "predict",
        *map(str, videos),
        "=1+1.avi",
        "--csv",
        "--model",
        str(work / "work/x3d_m/4f-s0.pt"),
        cwd=tmp_path,
    )
    table = pd.read_csv(io.StringIO(result.stdout))
    assert table["video"].tolist() == [*map(str, videos), "'=1+1.avi"]  # or a spreadsheet would run it
    assert table.columns.tolist() == [
        "video",
        "start",
        "end",
        "class",
        "probability",
        *(f"p_{name}" for name in CLASSES),
    ]
    p = table.filter(regex="^p_")
    assert p.sum(axis=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert table["probability"].tolist() == p.max(axis=1).tolist()
    assert table["class"].tolist() == p.idxmax(axis=1).str.removeprefix("p_").tolist()
    assert re.search(r"^36 frames in \d+\.\d s: \d+ frames per second$", result.stderr, re.MULTILINE)  # 3 windows of 4
    windows = run("framebudget", "predict", str(odd), "--csv", "--window", "0.4", "--step", "0.2", cwd=work).stdout
    assert pd.read_csv(io.StringIO(windows))["start"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=1e-3)


def test_json_holds_what_is_printed_and_the_windows(work, clips):
    video = next(clips.glob("Recede/*.avi"))
    (line,) = printed(work, str(video), "--json", "--frames", "2", "--window", "0.4", "--step", "0.2")
    answer = json.loads(line)
    assert (answer["video"], answer["model"], answer["frames"]) == (str(video), "x3d_m", 2)
    assert sum(row["probability"] for row in answer["classes"]) == pytest.approx(1, abs=1e-5)
    assert [row["start"] for row in answer["windows"]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert answer["windows"][-1]["end"] == 1.2  # 30 frames at 25 a second


def test_it_ends_quietly_when_nobody_reads_on(work, clips):
    process = subprocess.Popen(
        [sys.executable, "-m", "framebudget.commands.cli", "predict", str(clips)], cwd=work,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == -signal.SIGPIPE
    assert process.stderr.read() == ""


def test_names_on_standard_input_are_answered_one_by_one(work, clips):
    videos = sorted(clips.glob("Recede/*.avi"))[:2]
    process = subprocess.Popen(
        [sys.executable, "-m", "framebudget.commands.cli", "predict", "-", "--json"], cwd=work,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    for video in videos:
        process.stdin.write(f"{video}\n")
        assert json.loads(process.stdout.readline())["video"] == str(video)  # before the next one is named
    process.stdin.close()
    result = run("framebudget", "predict", "-", "--window", "1", "--timeline", "x.png", cwd=work, check=False)
    assert "--timeline works only for one video" in result.stderr  # or each would take the place of the one before
    assert process.wait() == 0


def test_a_broken_video_is_named_and_the_others_are_predicted(work, clips, tmp_path):
    (tmp_path / "broken.avi").write_text("no video")
    good = next(clips.glob("Recede/*.avi"))
    result = run("framebudget", "predict", str(tmp_path), str(good), "--top", "1", cwd=work, check=False)
    assert result.returncode == 1
    assert "broken.avi: cannot be opened as a video" in result.stderr
    assert "Traceback" not in result.stderr
    assert str(good) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frames", "3"], "no weights for 3 frames, only for 2, 4; take one of these, or train it"),
        (["--model", "x4d"], r"--model x4d: not a network \(slowfast_r50, x3d_m\), a weight file or models:/"),
        (["--model", "slowfast_r50"], "name another network .--model., or train it: dvc repro"),
        (["--model", "models:/framebudget-x3d_m@best-nothing"], "does not have it"),
        (["--model", "params.yaml"], "params.yaml: not a network"),
        (["--step", "1"], "--step works only with --window"),
        (["--timeline", "x.png"], "--timeline works only for one video, with --window"),
        (["--window", "1", "--timeline", "x.mp4"], "x.mp4: matplotlib cannot write .mp4 files; choose one of"),
        (["--window", "1", "--timeline", "work"], "work: a folder; name a file in it"),
        (["--top", "0"], "argument --top: '0' is not a whole number of at least 1"),
        (["--window", "-1"], "'-1' is not a number of seconds above 0"),
        (["--window", "1e308"], "'1e308' is not a number of seconds above 0"),
    ],
)
def test_what_cannot_be_is_one_clear_message(work, clips, tmp_path, arguments, says):
    result = run("framebudget", "predict", str(next(clips.glob("*/*.avi"))), *arguments, cwd=work, check=False,
                 MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")  # fmt: skip
    assert result.returncode in (1, 2)
    assert re.search(says, result.stderr)
    assert "Traceback" not in result.stderr


def test_windows_see_the_very_frames_of_the_video(clip, network):
    """As many windows as it takes, the last at the end, each as if its frames were read alone."""
    _, checkpoint = network
    batches = list(predict.read([clip], checkpoint, 0.5, 0.3))
    frames_NTHWC = np.concatenate([batch.frames_NTHWC for batch in batches])
    times = np.array([time for batch in batches for time in batch.times])
    assert batches[-1].left == 0
    fps = glance(clip)["fps"]
    assert np.all(np.diff(times[:, 0]) > 0)
    assert times[0, 0] == 0
    assert times[-1, 1] == pytest.approx(48 / fps)
    for (start, _), frames_THWC in zip(times, frames_NTHWC, strict=True):
        indices = round(start * fps) + np.arange(4) * (round(0.5 * fps) - 1) // 3
        assert (frames_THWC == read_frames(clip, indices, checkpoint["input"]["short_side"])).all()
    assert len(times) == 6


@pytest.mark.parametrize("sampling", ["segments", "dense"])
def test_a_window_is_as_long_as_asked_whatever_training_sampled(clip, network, sampling):
    checkpoint = network[1] | {"input": network[1]["input"] | {"sampling": sampling}}
    times = [time for batch in predict.read([clip], checkpoint, 0.5, 0.3) for time in batch.times]
    assert times[0] == (0, pytest.approx(0.5, abs=0.05))
    assert len(times) == 6


def test_a_window_as_long_as_the_video_is_taken_once(clip, network):
    checkpoint = network[1] | {"input": network[1]["input"] | {"window": None}}
    assert [len(batch.times) for batch in predict.read([clip], checkpoint)] == [1]


def test_no_window_lies_beyond_the_last_frame(tmp_path, network):
    """If the sound is longer than the picture, a container states the length of the sound."""
    path = tmp_path / "longer sound.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=24), container.add_stream("pcm_s16le", rate=8000)
        video.height, video.width, video.pix_fmt = 84, 112, "yuv420p"
        for array in render(draw_scene(2), "Sway"):
            container.mux(video.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(video.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 6), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
    with av.open(str(path)) as container:
        assert container.duration / av.time_base == pytest.approx(6, abs=0.1)
    times = [time for batch in predict.read([path], network[1], 0.5, 0.5) for time in batch.times]
    assert times[-1][1] == pytest.approx(2, abs=0.05)


def test_a_window_of_too_few_frames_is_said(clip, network, capsys):
    (time, *_), *_ = (batch.times for batch in predict.read([clip], network[1], 0.1))
    fps = glance(clip)["fps"]
    assert f"a window of 0.1 s has {round(0.1 * fps)} frames, but the network takes 4" in capsys.readouterr().err
    assert time[1] - time[0] == pytest.approx(4 / fps)


def test_the_network_sees_the_square_in_the_middle(clip):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, clips_BCTHW):
            self.seen_BCTHW = clips_BCTHW
            return clips_BCTHW.mean((2, 3, 4)) + self.bias

    frames_THWC, network = read_frames(clip, [0, 1, 2], 40), Network()
    logits_BK = serving.middle_logits(network, np.stack([frames_THWC, frames_THWC[::-1]]), 32)
    top, left = ((size - 32) // 2 for size in frames_THWC.shape[1:3])
    square_CTHW = frames_THWC[:, top : top + 32, left : left + 32].transpose(3, 0, 1, 2).astype(float)
    assert (network.seen_BCTHW[0].numpy() * 0.225 + 0.45) * 255 == pytest.approx(square_CTHW, abs=1e-3)
    assert (network.seen_BCTHW[1].numpy() * 0.225 + 0.45) * 255 == pytest.approx(square_CTHW[:, ::-1], abs=1e-3)
    assert logits_BK.shape == (2, 3)


def test_a_clip_shorter_than_it_says_ends_with_its_last_frame(clip):
    rows = np.array([[0, 10], [40, 60]])
    first, second = stream_frames(clip, rows, 32)
    assert (first == read_frames(clip, [0, 10], 32)).all()
    assert (second[0] == read_frames(clip, [40], 32)[0]).all()
    assert (second[1] == second[0]).all()


def test_a_long_video_is_never_held_whole(tmp_path, network):
    """Of 2000 frames, those of two windows at most."""
    frames = np.concatenate([render(draw_scene(1), "Sway")] * 42)[:2000]
    write_clip(tmp_path / "long.avi", frames)
    batches = predict.read([tmp_path / "long.avi"], network[1], 0.5, 0.5)
    held = [len(batch.frames_NTHWC) for batch in batches]
    assert max(held) == predict.BATCH
    assert sum(held) > 150


def test_an_error_in_the_reading_thread_comes_out(network):
    def videos():
        raise OSError("standard input is gone")
        yield

    with pytest.raises(OSError, match="standard input is gone"):
        list(predict.predict(videos(), Replay(network[0]), network[1]))


def test_names_do_not_control_the_terminal(work, clip, tmp_path):
    for name in ("a\x1b[2J.avi", "b\x1b[2J.avi"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "c\x1b[2J.avi").touch()
    (work / "work/x3d_m/best.pt").touch()  # of no training
    result = run("framebudget", "predict", str(tmp_path), cwd=work, check=False)
    assert r"a\x1b[2J.avi" in result.stdout
    assert r"c\x1b[2J.avi: cannot be opened" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_the_timeline_is_a_picture(work, clip, tmp_path):
    printed(work, str(clip), "--window", "0.5", "--timeline", str(tmp_path / "timeline.svg"))
    text = (tmp_path / "timeline.svg").read_text()
    assert text.startswith("<?xml")
    assert list(tmp_path.glob("*.partial")) == []


def test_predictions_are_those_of_the_weights_file_itself(work, clips):
    video = str(next(clips.glob("*/*.avi")))
    assert printed(work, video, "--frames", "2") == printed(work, video, "--model", "work/x3d_m/2f-s0.pt")


def test_unreadable_is_an_error_and_no_end(network, tmp_path, clips):
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    good = next(clips.glob("*/*.avi"))
    first, second = predict.predict([tmp_path / "a.avi", good], Replay(network[0]), network[1])
    assert isinstance(first, ClipError)
    assert second.video == good
