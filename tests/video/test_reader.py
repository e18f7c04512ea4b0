import ctypes
import gc
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from framebudget.sources.motion import draw_scene, render
from framebudget.sources.proof import build
from framebudget.video.container import ClipError
from framebudget.video.reader import glance, probe, read_frames, stream_frames
from tests.conftest import decode_all


@pytest.fixture(scope="module", params=["mpeg4", "mpeg4 with B-frames", "mjpeg"])
def video(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "video.avi"
    codec, _, b_frames = request.param.partition(" ")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"bf": "2"} if b_frames else {})
        stream.height, stream.width = 84, 112
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for array in render(draw_scene(2), "Sway"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_are_those_of_decoding_in_order(video):
    everything = decode_all(video)
    assert probe(video)["frames"] == len(everything) == 48
    for indices in ([0], [47], [5, 5, 3], [46, 0, 20], list(range(48))):
        np.testing.assert_array_equal(read_frames(video, indices), everything[indices])


def test_scaling_keeps_the_aspect_and_the_short_side(clip):
    assert read_frames(clip, [0, 1], short_side=42).shape == (2, 42, 56, 3)


def test_probe_describes_the_clip(clip):
    facts = probe(clip)
    assert len(facts.pop("sha256")) == 64
    assert facts == {"frames": 48, "fps": 25.0, "width": 112, "height": 84, "seconds": 1.92,
                     "codec": "mpeg4", "shown": None, "odd": None}  # fmt: skip


@pytest.fixture
def bad(tmp_path, clip):
    """Ways in which a file is no clip."""

    def make(kind):
        path = tmp_path / f"{kind}.avi"
        if kind == "text":
            path.write_text("this is no video " * 100)
        elif kind == "empty":
            path.touch()
        elif kind == "truncated":
            path.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
        elif kind == "audio":
            with av.open(str(path), "w") as container:
                stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
                sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
                sound.sample_rate = 8000
                container.mux(stream.encode(sound))
        return path

    return make


@pytest.mark.parametrize(
    ("kind", "says"),
    [("text", "opened"), ("empty", "opened"), ("truncated", "truncated"), ("audio", "no video"), ("none", "opened")],
)
def test_a_file_that_is_no_whole_clip_is_an_error_that_names_it(bad, kind, says):
    with pytest.raises(ClipError, match=rf"{kind}\.avi: .*{says}"):
        probe(bad(kind))


def test_a_path_that_the_system_does_not_take():
    with pytest.raises(ClipError, match=r"aaa\.avi: cannot be opened as a video \(File name too long"):
        probe(Path("a" * 300 + ".avi"))


@pytest.mark.parametrize(("kind", "head"), [
    ("GIF", b"GIF89a"), ("PNG", b"\x89PNG\r\n\x1a\n"), ("JPEG", b"\xff\xd8\xff\xe0"),
    ("WebP", b"RIFF\x40\0\0\0WEBPVP8X"),
])  # fmt: skip
def test_a_file_of_pictures_is_called_one(tmp_path, kind, head):
    path = tmp_path / "clip.mp4"
    path.write_bytes(head + bytes(100))
    with pytest.raises(ClipError, match=rf"clip\.mp4: cannot be opened as a video \(a {kind} file; convert it"):
        probe(path)


@pytest.fixture(scope="module", params=[
    "libx264 mkv", "libvpx webm", "mpeg2video ts", "mpeg2video mpg", "wmv2 wmv", "flv1 flv", "libtheora ogv",
    "libx264 mp4", "mpeg4 avi",
])  # fmt: skip
def download(request, tmp_path_factory):
    """48 frames without sound, in a container."""
    codec, suffix = request.param.split()
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no encoder {codec}")
    path = tmp_path_factory.mktemp("download") / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt = 84, 112, "yuv420p"
        for array in render(draw_scene(2), "Sway"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_download_that_broke_off_is_noticed(download, tmp_path, share):
    assert probe(download)["frames"] == glance(download)["frames"] == 48
    data, cut = download.read_bytes(), tmp_path / download.name
    cut.write_bytes(data[: int(share * len(data)) | 1])  # packets of MPEG-TS have an even length
    for read in (probe, glance):
        with pytest.raises(ClipError, match=r"truncated|cannot be opened|no frame|broken"):
            read(cut)


@pytest.mark.parametrize("stated", ["with its own 8 bytes", "rounded up", "open"])
def test_an_avi_whose_length_is_off_is_taken_if_every_frame_is_there(clip, tmp_path, stated):
    data, path = bytearray(clip.read_bytes()), tmp_path / "off.avi"
    length = {"with its own 8 bytes": len(data), "rounded up": -(-len(data) // 512) * 512, "open": 2**32 - 1}[stated]
    data[4:8] = length.to_bytes(4, "little")
    for place in (48, data.index(b"strh") + 8 + 32):  # frames announced, of the file and of the stream
        data[place : place + 4] = (49).to_bytes(4, "little")
    path.write_bytes(data)
    facts = probe(path)
    assert (facts["frames"], facts["odd"]) == (48, "its header announces one frame more than it has")
    for place in (48, data.index(b"strh") + 8 + 32):
        data[place : place + 4] = (50).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ClipError, match="truncated, 48 of 50 announced frames are there"):
        probe(path)


def test_empty_chunks_of_an_avi_are_no_missing_frames(clip, tmp_path):
    """They stand for "as before": what dropped frames, or a variable rate, become in AVI."""
    data, empty = clip.read_bytes(), b"00dc\0\0\0\0"
    movi = data.index(b"movi") - 8
    at = movi + 12  # the first chunk
    at += 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1) // 2 * 2
    grown = bytearray(data[:at] + 3 * empty + data[at : data.index(b"idx1")])
    for place in (4, movi + 4):  # sizes of RIFF and of the list
        grown[place : place + 4] = (len(grown) - place - 4).to_bytes(4, "little")
    for place in (48, data.index(b"strh") + 8 + 32):  # frames announced, of the file and of the stream
        grown[place : place + 4] = (51).to_bytes(4, "little")
    path = tmp_path / "dropped.avi"
    path.write_bytes(grown)
    assert probe(path)["frames"] == 48
    path.write_bytes(grown[:-9000])
    with pytest.raises(ClipError, match="truncated"):
        probe(path)


TURNS = {  # a, b, c, d of the display matrix, and where the picture's corner (0, 0) then is: (row, column)
    "upright": ((1, 0, 0, 1), (0, 0)), "mirrored": ((-1, 0, 0, 1), (0, -1)), "upside down": ((1, 0, 0, -1), (-1, 0)),
    "half a turn": ((-1, 0, 0, -1), (-1, -1)), "clockwise": ((0, 1, -1, 0), (0, -1)),
    "counterclockwise": ((0, -1, 1, 0), (-1, 0)), "transposed": ((0, 1, 1, 0), (0, 0)),
    "transposed the other way": ((0, -1, -1, 0), (-1, -1)),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
def test_turned_and_mirrored_clips_are_upright(tmp_path, turn):
    """As phones store them; ffmpeg, which turns what it decodes, is the truth where it is installed."""
    (a, b, c, d), corner = TURNS[turn]
    path, plain = tmp_path / "turned.mov", np.full((84, 112, 3), 40, np.uint8)
    plain[:20, :30] = 220
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 84, 112, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(plain, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    for place, value in zip((0, 4, 12, 16), (a, b, c, d), strict=True):  # the header of the track
        data[matrix + place : matrix + place + 4] = (value * 2**16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    facts, (frame,) = probe(path), read_frames(path, [0])
    assert frame.shape == (facts["height"], facts["width"], 3) == ((112, 84, 3) if b else (84, 112, 3))
    bright = [frame[row, column].mean() > 130 for row in (0, -1) for column in (0, -1)]
    assert bright == [(row, column) == corner for row in (0, -1) for column in (0, -1)]
    if shutil.which("ffmpeg"):
        command = ["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        assert np.abs(np.frombuffer(raw, np.uint8).reshape(frame.shape).astype(int) - frame).mean() < 2


def test_frames_that_are_not_there(clip, tmp_path):
    with pytest.raises(ClipError, match="frame 48 was asked for, but only 48 are there"):
        read_frames(clip, [0, 48])
    with pytest.raises(ClipError, match="frame -1"):
        read_frames(clip, [-1])
    odd = tmp_path / "Übung 1 (ä).avi"
    shutil.copy(clip, odd)
    assert read_frames(odd, [0]).shape == (1, 84, 112, 3)


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (*"abcdefg", "in_use", *"hi")]  # malloc.h


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc")
@pytest.mark.parametrize("how", ["by the index", "from the start", "in a stream that is left"])
def test_reading_leaves_no_memory_in_use(clip, how):
    """A training reads some million times: 150 bytes were lost each time, and held whole pages."""
    index = build(clip)
    read = {
        "by the index": lambda: read_frames(clip, [3, 9, 40], index=index),
        "from the start": lambda: read_frames(clip, [3, 9]),
        "in a stream that is left": lambda: next(stream_frames(clip, np.array([[1, 5], [9, 20]]), 32)),
    }[how]
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    for _ in range(300):
        read()
    gc.collect()
    growth = []
    for _ in range(3):  # something else may grow once, but a leak grows each time
        before = mallinfo().in_use
        for _ in range(100):
            read()
        gc.collect()
        growth.append(mallinfo().in_use - before)
    assert min(growth) < 100 * 20
