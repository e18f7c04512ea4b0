"""From a video file to exactly the frames asked for.

Frames are numbered in decode-and-display order, never by timestamp: AVI files with B-frames carry timestamps that name
the wrong frame. One decoding thread: parallelism comes from the loader's workers, and PyAV's own threads can deadlock
when a reader leaves early.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class ClipError(ValueError):
    """A clip that cannot be read, or not whole; the message names the file and what was found."""


def probe(path: Path) -> dict:
    """Decode the whole clip and describe it.

    Returns frames (counted), fps (frames per second), width and height (pixels), seconds, codec and sha256.
    Raises ClipError if it is missing, not a video, has no frames, or holds less than its container announces.
    """
    with _opening(path) as container:
        stream = _video(path, container)
        packets = frames = 0
        size = None
        for packet in _reading(path, container.demux(stream)):
            packets += packet.dts is not None or packet.size > 0
            for frame in _reading(path, iter(packet.decode())):
                frames += 1
                size = frame.width, frame.height
        announced, rate = stream.frames, stream.average_rate
        codec = stream.codec_context.name
    if not frames:
        raise ClipError(f"{path}: no frame could be decoded")
    missing = announced - packets
    cut = path.suffix.lower() == ".avi" and _riff_bytes(path) > path.stat().st_size
    if missing > 0 or cut:
        raise ClipError(f"{path}: truncated, {packets} of {announced} announced frames are there; copy the file again")
    if not rate:
        raise ClipError(f"{path}: the container states no frame rate; convert the clip, e.g. with ffmpeg -r 25")
    fps = float(rate)
    return {
        "frames": frames,
        "fps": round(fps, 6),
        "width": size[0],
        "height": size[1],
        "seconds": round(frames / fps, 3),
        "codec": codec,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def read_frames(path: Path, indices: Sequence[int], short_side: int | None = None) -> np.ndarray:
    """The frames at these positions, uint8 (T, H, W, C) in RGB; indices may repeat and need no order.

    short_side: scale so that the shorter side has this many pixels (bilinear, in the same pass as the conversion).
    Raises ClipError if the file cannot be read or has no such frame.
    """
    wanted = set(map(int, indices))
    if min(wanted) < 0:
        raise ClipError(f"{path}: frame {min(wanted)} was asked for; the first is 0")
    found = {}
    scaler = VideoReformatter()  # one for the clip: setting up a conversion costs more than converting a small frame
    with _opening(path) as container:
        decoded = _reading(path, container.decode(_video(path, container)))
        position = -1
        for position, frame in enumerate(decoded):
            if position in wanted:
                width, height = _scaled(frame.width, frame.height, short_side)
                scaled = scaler.reformat(frame, width, height, "rgb24", interpolation="BILINEAR")
                found[position] = scaled.to_ndarray()
                if len(found) == len(wanted):
                    break
        else:
            raise ClipError(f"{path}: frame {max(wanted)} was asked for, but only {position + 1} are there")
    return np.stack([found[int(i)] for i in indices])


def _scaled(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    scale = short_side / min(width, height) if short_side else 1
    return round(width * scale), round(height * scale)


def _opening(path: Path) -> av.container.InputContainer:
    try:
        return av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"{path}: cannot be opened as a video ({error.strerror or error})") from None


def _video(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise ClipError(f"{path}: no video in it")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    return stream


def _reading(path: Path, items: Iterator) -> Iterator:
    try:
        yield from items
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"{path}: broken while decoding ({error.strerror or error})") from None


def _riff_bytes(path: Path) -> int:
    """How long the first RIFF chunk of an AVI file says it is; what follows (OpenDML) may make the file longer."""
    with path.open("rb") as file:
        head = file.read(8)
    return int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" else 0
