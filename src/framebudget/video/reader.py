"""Read exactly the frames asked for from a video file.

Frames are numbered from 0 in display order. Timestamps never choose a frame: in AVI files with B-frames they name the
wrong one. They only tell whether the frame rate varies.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from framebudget.console import sha256
from framebudget.video import timeline
from framebudget.video.container import ClipError, Picture, open_video, orientation
from framebudget.video.index import FrameIndex
from framebudget.video.whole import Completeness

MAX_ASPECT = 16  # longer side / shorter side


def probe(
    path: Path, decode: Callable[[av.VideoStream, av.Packet], list[av.VideoFrame]] = av.VideoStream.decode
) -> dict:
    """Decode the whole clip and describe it. Frames are counted. Width and height are those of upright frames.

    odd: what is unusual about the file, if anything.
    shown: if the frame rate varies (fps is then its mean), what `timeline.shown` returns; else None.
    decode: returns the frames that the stream's decoder gives for a packet; `fetch` passes one that also records them.
    Raises ClipError if the file is missing, is not a video, has no frames, or has been cut off.
    """
    sizes, damaged = Counter[tuple[int, int]](), False
    times: list[float | None] = []
    upright = None
    with open_video(path) as video:
        stream, complete = video.stream, Completeness(path, video)
        for packet in filter(complete, video.packets(of_all=True)):
            damaged &= not packet.size  # of the frames that come out last
            for frame in decode(stream, packet):
                damaged |= frame.is_corrupt
                times.append(None if video.is_avi else frame.time)
                upright = upright or orientation(frame)
                sizes[(frame.height, frame.width) if upright.turned else (frame.width, frame.height)] += 1
        frames, codec = sizes.total(), stream.codec_context.name
        if not sizes:
            raise ClipError(f"{path}: no frame could be decoded")
        if len(sizes) > 1:
            raise ClipError(f"{path}: frames of {len(sizes)} sizes, {sorted(sizes)[:3]}; convert it with ffmpeg")
        ((width, height),) = sizes
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise ClipError(f"{path}: {width}×{height} pixels; no side may be longer than {MAX_ASPECT} times the other")
        odd = complete.check(damaged)
        if not odd and (aspect := stream.sample_aspect_ratio) and aspect != 1:
            odd = f"its pixels are not square ({aspect.numerator}:{aspect.denominator}), and are taken as square"
        shown = timeline.shown(times)
        fps = _frame_rate(path, stream, times, shown)
    return {
        "frames": frames, "fps": round(fps, 6), "width": width, "height": height, "seconds": round(frames / fps, 3),
        "codec": codec, "sha256": sha256(path), "shown": shown, "odd": odd,
    }  # fmt: skip


def glance(path: Path) -> dict:
    """Return frames, fps and shown without decoding: the frames are counted as packets, so perhaps a few off.

    A container may state more: frames that an edit list hides, or enough for the length of its sound. Raises ClipError,
    also if the file has been cut off.
    """
    with open_video(path) as video:
        complete, unit = Completeness(path, video), video.stream.time_base
        packets = filter(complete, video.packets(of_all=True))
        points = [packet.pts for packet in packets if packet.size and not packet.is_discard]
        complete.check()
        times = [None if video.is_avi or point is None or not unit else float(point * unit) for point in points]
        if times and None not in times:
            times.sort()  # packets come in the order of decoding
        shown = timeline.shown(times)
        fps = _frame_rate(path, video.stream, times, shown)
    return {"frames": len(times), "fps": fps, "shown": shown} if times else probe(path)


def read_frames(
    path: Path, indices: Sequence[int] | np.ndarray, short_side: int | None = None, index: FrameIndex | None = None
) -> np.ndarray:
    """Return the frames with these numbers, uint8 (T, H, W, C) in RGB, upright. Indices may repeat, in any order.

    short_side: scale the frames (bilinear) so that the shorter side has this many pixels.
    index: of this clip, as `fetch` proved it (sources/proof.py); without it, the clip is decoded from its start.
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
        raise ClipError(
            f"{path}: frame {min(missing)} could not be decoded; if the clip has changed: dvc repro -f fetch"
        )
    raise ClipError(f"{path}: frame {min(missing)} was asked for, but only {number + 1} are there")


def stream_frames(path: Path, rows: np.ndarray, short_side: int) -> Iterator[np.ndarray]:
    """Yield for each row of indices (N, T) its frames, uint8 (T, H, W, C), as soon as the last of them is decoded.

    The clip is decoded once, in order. Frames stay in memory only until no later row needs them, so rows should begin
    one after the other. If the clip has fewer frames than its container states, the last frame read replaces the
    missing ones. Raises ClipError.
    """
    picture, number, last = Picture(short_side), -1, None
    kept: dict[int, np.ndarray] = {}
    uses = Counter(rows.ravel().tolist())  # of each frame, in the rows still to come
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


def _frame_rate(path: Path, stream: av.VideoStream, times: list[float | None], shown: list[int] | None) -> float:
    """Frames per second, from a time lapse to a high-speed camera: as the container states them, or their mean if they
    vary or the statement is more than 1% off."""
    stated = stream.average_rate or stream.base_rate  # a Theora file without sound has only the last
    mean = timeline.mean_rate(times)
    rate = mean if mean and (shown or not stated or abs(mean / stated - 1) > 0.01) else stated
    if not rate or not 0.001 <= rate <= 100_000:
        what = f"{float(rate):.2g} frames per second" if rate else "no frame rate"
        raise ClipError(f"{path}: the container states {what}; convert the clip, e.g. with ffmpeg -r 25")
    return float(rate)
