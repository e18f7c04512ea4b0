"""Where the frame rate varies, frames are taken evenly in time, in training and by `predict`."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from framebudget import params
from framebudget.commands import predict
from framebudget.sources.proof import build
from framebudget.video.dataset import Clips
from framebudget.video.reader import glance, probe
from framebudget.video.timeline import at, mean_rate, shown
from tests.conftest import ROOT

TIMES = [*np.arange(15) / 30, *(0.5 + np.arange(15) / 10)]  # 30 frames per second, and from 0.5 s on 10


@pytest.fixture(params=["mp4", "mkv"])
def recording(request, tmp_path: Path) -> Path:
    """A video of these times, whose frames get brighter: frame k has 8 k of 255."""
    path = tmp_path / f"recording.{request.param}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 64, 64, "yuv420p", 4_000_000
        stream.codec_context.time_base = stream.time_base = Fraction(1, 600)
        for number, time in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * 600), stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_constant_rate_needs_no_timeline():
    assert shown(np.arange(50) / 25) is None
    assert shown((np.arange(90) / 29.97).round(3)) is None  # as Matroska rounds
    assert shown([0.0, None, 0.1]) is None
    assert shown([0.0, 0.1, 0.1]) is None
    assert shown([5.0]) is None
    assert at(None, np.array([3, 1])).tolist() == [3, 1]


def test_each_tick_shows_the_frame_that_is_on_the_screen():
    found = shown(TIMES)
    rate = mean_rate(TIMES)
    assert rate == pytest.approx(29 / 1.9)
    for tick, frame in enumerate(found):
        time = (tick + 0.5) / rate
        assert TIMES[frame] <= time
        assert frame == 29 or time < TIMES[frame + 1]
    assert at(found, np.array([0, 29])).tolist() == [0, 29]


def test_a_window_in_seconds_is_seconds(recording):
    facts = probe(recording)
    assert facts["frames"] == 30
    assert facts["fps"] == pytest.approx(29 / 1.9)
    assert facts["seconds"] == pytest.approx(1.97, abs=0.01)
    assert facts["shown"] == shown(TIMES) == glance(recording)["shown"]
    assert glance(recording)["fps"] == pytest.approx(facts["fps"])
    rows = pd.DataFrame([{"path": recording.name, "label": 0, "first": 0, **facts}]).assign(
        frame_index=[build(recording)]
    )
    spec = params.load(ROOT / "params.yaml").data.input
    spec = spec.model_copy(update={"window": 1.0, "short_side": 64, "crop": 64})
    frames_VTHWC, *_ = Clips(recording.parent, rows, 6, spec, seed=0, views=2)[0, 0]
    brightness_VT = frames_VTHWC.float().mean((2, 3, 4)) / 8
    for start, seen_T in zip(
        (0, 0.97), brightness_VT.round().int().tolist(), strict=True
    ):  # the first second, the last
        assert np.array(TIMES)[seen_T] == pytest.approx(start + np.linspace(0, 0.93, 6), abs=1 / facts["fps"])


def test_predict_takes_frames_evenly_in_time(recording):
    checkpoint = {"input": params.load(ROOT / "params.yaml").data.input.model_dump(), "frames": 4}
    (batch,) = predict.read([recording], checkpoint, 0.5, 0.5)
    seen_NT = batch.frames_NTHWC.mean((2, 3, 4)) / 8
    assert len(seen_NT) == 4
    assert np.ptp(seen_NT[0]) > 10  # the first half second has 15 frames
    assert all(np.ptp(seen_T) < 7 for seen_T in seen_NT[1:])  # the others have 5
