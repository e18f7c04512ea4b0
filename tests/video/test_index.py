"""The fast way to a frame gives the very frame that decoding in order gives, whatever the codec and container."""

import av
import numpy as np
import pytest

from framebudget.sources.motion import draw_scene, render
from framebudget.sources.proof import build
from framebudget.video.container import ClipError, open_video
from framebudget.video.index import FrameIndex
from framebudget.video.reader import glance, probe, read_frames
from tests.conftest import decode_all

X264, X265 = "x264-params", "x265-params"
QUIET = ":log-level=0:pools=1:frame-threads=1"
KINDS = {  # suffix, codec, its options, pixel format
    "mpeg4": ("avi", "mpeg4", {}, "yuv420p"),
    "mpeg4 with B-frames": ("avi", "mpeg4", {"bf": "2"}, "yuv420p"),
    "mpeg2 in a programme stream": ("mpg", "mpeg2video", {"bf": "2"}, "yuv420p"),
    "h264, closed GOPs": ("mp4", "libx264", {X264: "keyint=12:bframes=3:open-gop=0"}, "yuv420p"),
    "h264, open GOPs": ("mp4", "libx264", {X264: "keyint=12:min-keyint=12:bframes=3:open-gop=1:scenecut=0"}, "yuv420p"),
    "h264, pyramid": ("mkv", "libx264", {X264: "keyint=24:bframes=5:b-pyramid=2"}, "yuv420p"),
    "h264, interlaced": ("ts", "libx264", {X264: "keyint=12:tff=1:bframes=2"}, "yuv420p"),
    "h264, 10 bit": ("mov", "libx264", {X264: "keyint=12:bframes=3"}, "yuv420p10le"),
    "hevc, open GOPs": ("mkv", "libx265", {X265: "keyint=12:bframes=3:open-gop=1" + QUIET}, "yuv420p"),
    "vp9, hidden frames": ("webm", "libvpx-vp9", {"g": "12", "lag-in-frames": "16", "cpu-used": "8"}, "yuv420p"),
    "mjpeg": ("avi", "mjpeg", {}, "yuvj420p"),
    "ffv1, grey": ("mkv", "ffv1", {}, "gray"),
}


def encode(path, codec, options, pix_fmt, frames, times=None):
    height, width = frames.shape[1:3]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for i, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = times[i] if times is not None else i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def frames():
    return np.concatenate([render(draw_scene(2), "Sway"), render(draw_scene(3), "Approach")])[:72]


@pytest.fixture(scope="module", params=KINDS)
def video(request, frames, tmp_path_factory):
    suffix, codec, options, pix_fmt = KINDS[request.param]
    return encode(tmp_path_factory.mktemp("video") / f"video.{suffix}", codec, options, pix_fmt, frames)


def assert_exact(path, index, sets=40, step=1):
    everything = decode_all(path)
    assert probe(path)["frames"] == len(everything)
    generator = np.random.default_rng(0)
    asked = [[i] for i in range(0, len(everything), step)]
    asked += [generator.integers(len(everything), size=generator.integers(1, 17)).tolist() for _ in range(sets)]
    for indices in asked:
        np.testing.assert_array_equal(read_frames(path, indices, index=index), everything[indices])


def test_every_frame_and_any_set_of_frames(video):
    index = build(video)
    assert len(index.entries) > 3
    assert_exact(video, index)
    assert_exact(video, None, sets=5, step=7)


def test_a_late_window_is_sought(frames, tmp_path):
    path = encode(
        tmp_path / "long.mkv", "libx264", {X264: "keyint=20:bframes=3"}, "yuv420p", np.tile(frames, (5, 1, 1, 1))
    )
    index = build(path)
    assert index.dts[-1] is not None
    late = range(340, 356)
    assert index.ranges(late)[0].first > 300
    np.testing.assert_array_equal(read_frames(path, late, index=index), decode_all(path)[late])


@pytest.mark.parametrize("size", [(111, 83), (16, 16)])
def test_odd_and_small_sizes(frames, tmp_path, size):
    width, height = size
    path = encode(tmp_path / "odd.webm", "libvpx-vp9", {"cpu-used": "8"}, "yuv420p", frames[:20, :height, :width])
    assert_exact(path, build(path))
    assert read_frames(path, [3], short_side=32).shape[1:] == (32, round(width * 32 / height), 3)


def test_a_single_frame(frames, tmp_path):
    path = encode(tmp_path / "one.avi", "mpeg4", {}, "yuv420p", frames[:1])
    assert_exact(path, build(path))


def test_variable_frame_rate_is_counted_not_timed(frames, tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 40)).tolist()
    path = encode(tmp_path / "phone.mp4", "libx264", {X264: "keyint=12:bframes=2"}, "yuv420p", frames[:40], times)
    assert probe(path)["frames"] == 40
    assert_exact(path, build(path))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_rate_that_the_times_contradict_is_not_believed(frames, tmp_path, suffix):
    """As from a camera that is set to 25 frames per second and delivers 12.5."""
    path = encode(tmp_path / f"dark.{suffix}", "libx264", {}, "yuv420p", frames[:40], range(0, 80, 2))
    facts = probe(path)
    assert facts["fps"] == pytest.approx(12.5, rel=0.01)
    assert facts["shown"] is None
    assert glance(path)["fps"] == facts["fps"]


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_rotated_clip_is_read_upright(frames, tmp_path, matrix, turns):
    """Phones store the picture as the sensor lies and write into the track's matrix how to turn it for display."""
    path = encode(tmp_path / "phone.mp4", "libx264", {}, "yuv420p", frames[:4])
    stored = decode_all(path)
    whole = bytearray(path.read_bytes())
    place = whole.index(b"tkhd") + 4 + 40
    for k, value in zip((0, 1, 3, 4), matrix, strict=True):
        whole[place + 4 * k : place + 4 * k + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(whole)
    upright = np.rot90(stored, turns, axes=(1, 2))
    np.testing.assert_array_equal(read_frames(path, range(4)), upright)
    np.testing.assert_array_equal(read_frames(path, range(4), index=build(path)), upright)
    facts = probe(path)
    assert (facts["height"], facts["width"]) == upright.shape[1:3]


def test_real_clips(shared):
    for path in sorted(shared.glob("data/*/*/*.avi"))[::15]:
        index = build(path)
        everything = decode_all(path)
        assert probe(path)["frames"] == len(everything)
        generator = np.random.default_rng(0)
        for T, way in ((1, index), (6, index), (6, None), (16, index)):
            indices = generator.integers(len(everything), size=T)
            np.testing.assert_array_equal(read_frames(path, indices, index=way), everything[indices])


def test_two_readers_of_one_clip_at_a_time(frames, tmp_path):
    """PyAV finds a packet's mark by the identity of the object, and Python has one 7: readers must not share it."""
    path = encode(tmp_path / "clip.mp4", "libx264", {"bf": "3"}, "yuv420p", frames[:40])
    index, wanted = build(path), list(range(40))
    with open_video(path) as one, open_video(path) as two:
        waiting = index.decode(one, wanted)
        first, _ = next(waiting)
        assert [number for number, _ in index.decode(two, wanted)] == wanted
        assert [first, *(number for number, _ in waiting)] == wanted


def test_ranges_of_packets_are_short_and_apart():
    #         I  P  B  B  I  B  B  P      an open GOP: two frames are shown before the second I, but stored after it
    order = [0, 3, 1, 2, 6, 4, 5, 7]
    index = FrameIndex(order, entries=[0, 4], dts=[0, 4], skip=True, unpack=False)
    assert [(part.first, part.last) for part in index.ranges([1])] == [(0, 2)]
    assert [(part.first, part.last) for part in index.ranges([7])] == [(4, 7)]
    assert [(part.first, part.last) for part in index.ranges([0, 6])] == [(0, 0), (4, 4)]
    (part,) = index.ranges([5, 7])  # frame 5 needs what lies before the entry; going on is shorter than going back
    assert (part.first, part.last, part.frames) == (0, 7, {5, 7})


def test_a_clip_that_has_changed_since_is_an_error(frames, tmp_path):
    path = encode(tmp_path / "clip.avi", "mpeg4", {}, "yuv420p", frames)
    index = build(path)
    encode(path, "mpeg4", {}, "yuv420p", frames[:30])
    with pytest.raises(ClipError, match=r"clip.avi: frame 60 could not be decoded.*dvc repro"):
        read_frames(path, [3, 60], index=index)
