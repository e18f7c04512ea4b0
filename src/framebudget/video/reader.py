"""Read exactly the frames asked for from a video file.

Frames are numbered from 0 in display order. Timestamps are never used: in AVI files with B-frames they name the wrong
frame. Decoding takes one thread: a loader has several workers, and PyAV's own threads can deadlock when a reader stops
early.
"""

import contextlib
import errno
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from numpy.lib.stride_tricks import as_strided

from framebudget.console import UserError, sha256

if TYPE_CHECKING:
    from framebudget.video.index import FrameIndex

MAX_PIXELS = 8192 * 4320  # of a frame, 8K: a small file can hold one that fills the memory
MAX_ASPECT = 16  # longer side / shorter side
OPTIONS = {  # FFmpeg would also open playlists: lists of other files, local or remote, under any name
    "format_whitelist": "avi,mov,matroska,mpeg,mpegvideo,mpegts,asf,flv,ogg",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}


class ClipError(UserError):
    """A clip that cannot be read completely. The message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Video:
    """An open file and its video stream."""

    container: InputContainer
    stream: av.VideoStream

    def packets(self) -> Iterator[av.Packet]:
        """All packets in file order, and the empty one at the end that makes the decoder release its last frames."""
        packets = cast("Generator[av.Packet]", self.container.demux(self.stream))
        with contextlib.closing(packets):  # PyAV leaks memory if its generator is dropped halfway without being closed
            yield from packets

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames in display order."""
        for packet in self.packets():
            yield from self.stream.decode(packet)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a file. Raises ClipError if it has no video stream, or if decoding fails in the body of the `with`."""
    if path.exists() and not path.is_file() and not path.is_dir():  # reading it may never end
        raise ClipError(f"{path}: no file, but a pipe or device")
    problem = "cannot be opened as a video"
    try:
        with av.open(f"file:{path}", options=OPTIONS, metadata_errors="replace") as container:
            problem = "broken while decoding"
            yield Video(container, _video_stream(path, container))
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:  # IndexError: PyAV, some FLV files
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"  # a MemoryError has no message
        if getattr(error, "errno", None) == errno.EINVAL:
            reason += f"; such as pictures of more than {MAX_PIXELS:,} pixels"
        raise ClipError(f"{path}: {problem} ({reason})") from None


def probe(path: Path) -> dict:
    """Decode the whole clip and describe it; frames are counted, width and height are as displayed.

    Raises ClipError if the file is missing, is not a video, has no frames, or has fewer than its container announces.
    """
    packets, sizes = 0, Counter[tuple[int, int]]()
    with open_video(path) as video:
        stream, avi = video.stream, video.container.format.name == "avi"
        for packet in video.packets():
            packets += packet.dts is not None or packet.size > 0
            if avi and packet.dts is not None:  # an empty AVI chunk repeats the last frame: announced, but no packet
                packets = max(packets, packet.dts + 1)
            for frame in stream.decode(packet):
                sizes[(frame.height, frame.width) if frame.rotation // 90 % 2 else (frame.width, frame.height)] += 1
        frames, codec = sizes.total(), stream.codec_context.name
        if not sizes:
            raise ClipError(f"{path}: no frame could be decoded")
        if len(sizes) > 1:
            raise ClipError(f"{path}: pictures of {len(sizes)} sizes, {sorted(sizes)[:3]}; convert it with ffmpeg")
        ((width, height),) = sizes
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ClipError(f"{path}: {width}×{height} pixels; no side may be longer than {MAX_ASPECT} times the other")
        if stream.frames > packets or (avi and _riff_bytes(path) > path.stat().st_size):
            there = f"{packets} of {stream.frames} announced frames are there"
            raise ClipError(f"{path}: truncated, {there}; copy the file again")
        fps = float(_frame_rate(path, stream))
    return {
        "frames": frames, "fps": round(fps, 6), "width": width, "height": height, "seconds": round(frames / fps, 3),
        "codec": codec, "sha256": sha256(path),
    }  # fmt: skip


def glance(path: Path) -> dict:
    """Return frames and fps as the container states them, frames perhaps a few off. Raises ClipError."""
    with open_video(path) as video:
        stream, rate = video.stream, _frame_rate(path, video.stream)
        duration, unit = stream.duration, stream.time_base
        seconds = duration * unit if duration and unit else (video.container.duration or 0) / av.time_base
        frames = stream.frames or round(seconds * rate)
    if not 0 < frames <= path.stat().st_size:  # every frame takes a byte at least
        return probe(path)
    return {"frames": frames, "fps": float(rate)}


def read_frames(
    path: Path, indices: Sequence[int] | np.ndarray, short_side: int | None = None, index: "FrameIndex | None" = None
) -> np.ndarray:
    """Return the frames with these numbers, uint8 (T, H, W, C) in RGB, upright. Indices may repeat, in any order.

    short_side: scale the frames (bilinear) so that the shorter side has this many pixels.
    index: what `index.build` returned for this clip; without it, the clip is decoded from its start.
    Raises ClipError if the file cannot be read or has no such frame.
    """
    indices_T = np.asarray(indices)
    missing = set(indices_T.tolist())
    if index and not 0 <= min(missing) <= max(missing) <= max(index.frame_of):
        index = None  # no such frame; decoding in order counts how many there are
    picture, frames_THWC, number = Picture(short_side), None, -1
    with open_video(path) as video:
        for number, frame in index.decode(video, missing) if index else enumerate(video.frames()):
            if number in missing:
                missing.remove(number)
                frame_HWC = picture(frame)
                if frames_THWC is None:
                    frames_THWC = np.empty((len(indices_T), *frame_HWC.shape), np.uint8)
                frames_THWC[indices_T == number] = frame_HWC
                if not missing:
                    return frames_THWC
    if index:
        raise ClipError(f"{path}: frame {min(missing)} did not come out; has the clip changed? dvc repro fetch")
    raise ClipError(f"{path}: frame {min(missing)} was asked for, but only {number + 1} are there")


def stream_frames(path: Path, rows: np.ndarray, short_side: int) -> Iterator[np.ndarray]:
    """Yield for each row of indices (N, T) its frames, uint8 (T, H, W, C), as soon as the last of them is decoded.

    The clip is decoded once, in order. Frames stay in memory only until no later row needs them, so rows should begin
    one after the other. If the clip has fewer frames than its container states, the last frame read stands in for the
    missing ones. Raises ClipError.
    """
    picture, number, last = Picture(short_side), -1, None
    kept: dict[int, np.ndarray] = {}
    uses = Counter(rows.ravel().tolist())  # of each frame, by the rows still to come
    with open_video(path) as video:
        frames = enumerate(video.frames())
        for row in rows.tolist():
            while number < max(row) and (decoded := next(frames, None)):
                number, frame = decoded
                if uses[number]:
                    kept[number] = last = picture(frame).copy()
            if last is None:
                raise ClipError(f"{path}: no frame could be decoded")
            yield np.stack([kept.get(index, last) for index in row])
            uses.subtract(row)
            kept = {index: frame_HWC for index, frame_HWC in kept.items() if uses[index]}


class Picture:
    """Turns a decoded frame into an upright RGB array (H, W, 3), scaled to `short_side` if there is one.

    Raises ValueError if a frame has another size than the first.
    """

    def __init__(self, short_side: int | None = None):
        self.short_side = short_side
        self.size: tuple[int, int] | None = None
        self.scale, self.convert = VideoReformatter(), VideoReformatter()  # setting one up costs more than a frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = frame.width, frame.height
        self.size = self.size or (width, height)
        if self.size != (width, height):
            raise ValueError(f"pictures of several sizes, {self.size} and {(width, height)}")
        if self.short_side:
            scale = self.short_side / min(width, height)
            width, height = round(width * scale), round(height * scale)
            if scale > 0.5 and frame.format.name.startswith("yuv"):  # three times faster, slightly less sharp in color
                frame = self.scale.reformat(frame, width, height, "yuv422p", interpolation="BILINEAR")
        (plane,) = self.convert.reformat(frame, width, height, "rgb24", interpolation="BILINEAR").planes
        pixels = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]  # PyAV's stubs omit the buffer protocol
        frame_HWC = as_strided(pixels, (height, width, 3), (plane.line_size, 3, 1))  # a view: to_ndarray() copies
        return np.rot90(frame_HWC, frame.rotation // 90) if frame.rotation else frame_HWC


def _video_stream(path: Path, container: InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise ClipError(f"{path}: no video in it")
    stream = container.streams.best("video")  # not the cover picture
    if not isinstance(stream, av.VideoStream) or not stream.codec_context:
        raise ClipError(f"{path}: FFmpeg has no decoder for it; convert the clip")
    if stream.width * stream.height > MAX_PIXELS:
        raise ClipError(f"{path}: {stream.width}×{stream.height}; no picture may have more than {MAX_PIXELS:,} pixels")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for frames larger than the header states
    stream.codec_context.flags |= Flags.copy_opaque  # a frame then carries the `opaque` of its packet
    stream.thread_type = "NONE"
    return stream


def _frame_rate(path: Path, stream: av.VideoStream) -> Fraction:
    """Frames per second: anything from a time lapse to a high-speed camera."""
    rate = stream.average_rate
    if not rate or not 0.001 <= rate <= 100_000:
        stated = f"{float(rate):.2g} frames per second" if rate else "no frame rate"
        raise ClipError(f"{path}: the container states {stated}; convert the clip, e.g. with ffmpeg -r 25")
    return rate


def _riff_bytes(path: Path) -> int:
    """Length that the first RIFF chunk of an AVI file states; the file may go on after it (OpenDML)."""
    with path.open("rb") as file:
        head = file.read(8)
    return int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" else 0
