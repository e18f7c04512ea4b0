"""From a video file to exactly the frames asked for.

Frames are numbered in decode-and-display order, never by timestamp: AVI files with B-frames carry timestamps that name
the wrong frame. One decoding thread: parallelism comes from the loader's workers, and PyAV's own threads can deadlock
when a reader leaves early.
"""

import contextlib
import errno
import hashlib
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter
from numpy.lib.stride_tricks import as_strided

from framebudget.video.packets import Packets

FAR = 100  # packets: from here on, seeking is quicker than passing them by
LARGEST = 8192 * 4320  # pixels of a picture, 8K: a small file can hold one that fills the memory
SLIMMEST = 16  # how many times as long as the short side the other may be
OPENING = {  # FFmpeg also takes lists of other files, here or elsewhere, by whatever name; these are none
    "format_whitelist": "avi,mov,matroska,mpeg,mpegvideo,mpegts,asf,flv,ogg",
    "protocol_whitelist": "file",
    "max_pixels": str(LARGEST),
}


class ClipError(ValueError):
    """A clip that cannot be read, or not whole; the message names the file and what was found."""


def probe(path: Path) -> dict:
    """Decode the whole clip and describe it.

    Returns frames (counted), fps (frames per second), width and height (pixels, as displayed), seconds, codec and
    sha256. Raises ClipError if it is missing, not a video, has no frames, or holds less than its container announces.
    """
    with _opening(path) as container, _reading(path):
        stream = _video(path, container)
        packets = frames = 0
        sizes = set()
        avi = container.format.name == "avi"
        for packet in _demuxed(container, stream):
            packets += packet.dts is not None or packet.size > 0
            if avi and packet.dts is not None:  # AVI writes an empty chunk for "as before": counted, but no packet
                packets = max(packets, packet.dts + 1)
            for frame in packet.decode():
                frames += 1
                sizes.add((frame.height, frame.width) if frame.rotation // 90 % 2 else (frame.width, frame.height))
        announced, rate = stream.frames, stream.average_rate
        codec = stream.codec_context.name
    if not frames:
        raise ClipError(f"{path}: no frame could be decoded")
    if len(sizes) > 1:
        raise ClipError(f"{path}: pictures of {len(sizes)} sizes, {sorted(sizes)[:3]}; convert the clip with ffmpeg")
    width, height = sizes.pop()
    if max(width, height) > SLIMMEST * min(width, height):
        raise ClipError(f"{path}: {width}×{height} pixels; no side may be longer than {SLIMMEST} times the other")
    missing = announced - packets
    cut = avi and _riff_bytes(path) > path.stat().st_size
    if missing > 0 or cut:
        raise ClipError(f"{path}: truncated, {packets} of {announced} announced frames are there; copy the file again")
    fps = _fps(path, rate)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "frames": frames,
        "fps": round(fps, 6),
        "width": width,
        "height": height,
        "seconds": round(frames / fps, 3),
        "codec": codec,
        "sha256": digest,
    }


def read_frames(
    path: Path, indices: Sequence[int], short_side: int | None = None, packets: Packets | None = None
) -> np.ndarray:
    """The frames at these positions, uint8 (T, H, W, C) in RGB, upright; indices may repeat and need no order.

    short_side: scale so that the shorter side has this many pixels (bilinear).
    packets: what `learn` found; without, the clip is decoded from its start.
    Raises ClipError if the file cannot be read or has no such frame.
    """
    wanted = set(map(int, indices))
    if min(wanted) < 0:
        raise ClipError(f"{path}: frame {min(wanted)} was asked for; the first is 0")
    if packets and max(wanted) >= len(packets.packet_of):
        raise ClipError(f"{path}: frame {max(wanted)} was asked for, but only {len(packets.packet_of)} are there")
    places = {}
    for place, index in enumerate(indices):
        places.setdefault(int(index), []).append(place)
    picture = Picture(short_side)
    frames_THWC = None
    with _opening(path) as container, _reading(path):
        stream = _video(path, container)
        decoded = sparse(container, stream, packets, wanted) if packets else enumerate(_frames(container, stream))
        position = -1
        for position, frame in decoded:
            if position in wanted:
                wanted.remove(position)
                array = picture(frame)
                if frames_THWC is None:
                    frames_THWC = np.empty((len(indices), *array.shape), np.uint8)
                frames_THWC[places[position]] = array
                if not wanted:
                    return frames_THWC
    if packets:
        raise ClipError(f"{path}: frame {min(wanted)} did not come out; has the clip changed? dvc repro fetch")
    raise ClipError(f"{path}: frame {max(wanted)} was asked for, but only {position + 1} are there")


def glance(path: Path) -> dict:
    """frames and fps by what the container says, without decoding; the frames may be some off. Raises ClipError."""
    with _opening(path) as container:
        stream = _video(path, container)
        rate = stream.average_rate
        fps = _fps(path, rate)
        seconds = stream.duration * stream.time_base if stream.duration else (container.duration or 0) / av.time_base
        frames = stream.frames or round(seconds * rate)
    if not 0 < frames <= path.stat().st_size:  # of those that every frame takes a byte at least
        return probe(path)
    return {"frames": frames, "fps": fps}


def stream_frames(path: Path, rows: np.ndarray, short_side: int) -> Iterator[np.ndarray]:
    """The frames uint8 (T, H, W, C) of each row of indices (N, T), as soon as its last has come.

    Decoded in order, once. Rows begin one after the other; no more is held than those that overlap. Where the clip
    turns out to be shorter than its container says, its last frame stands for those beyond. Raises ClipError.
    """
    picture, held, last, position = Picture(short_side), {}, None, -1
    wanted, done = Counter(rows.ravel().tolist()), 0

    def taken(row: np.ndarray) -> np.ndarray:
        frames_THWC = np.stack([held.get(index, last) for index in row.tolist()])
        wanted.subtract(row.tolist())
        for index in set(row.tolist()):
            if not wanted[index]:
                held.pop(index, None)
        return frames_THWC

    with _opening(path) as container, _reading(path):
        for position, frame in enumerate(_frames(container, _video(path, container))):
            if wanted[position] > 0:
                held[position] = last = picture(frame).copy()
            while done < len(rows) and rows[done].max() <= position:
                yield taken(rows[done])
                done += 1
            if done == len(rows):
                return
        if last is None:
            raise ClipError(f"{path}: no frame could be decoded")
    for row in rows[done:]:
        yield taken(row)


def sparse(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Packets,
    wanted: Iterable[int],
    far: int = FAR,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(position, frame) of the wanted frames that come out, decoding no more than they need."""
    decoder = stream.codec_context
    decoder.flags |= Flags.copy_opaque  # a frame says which packet it is from
    stored, number = _stored(container, stream, packets.unpack), -1
    for run in packets.runs(wanted):
        if run.dts is not None and run.first - number > far:
            container.seek(run.dts, stream=stream)
            stored = _stored(container, stream, packets.unpack)
            stored, number = itertools.dropwhile(lambda packet, dts=run.dts: packet.dts != dts, stored), run.first - 1
        decoder.flush_buffers()
        for packet in stored:
            number += 1
            if number >= run.first:
                position = packets.frame_of[number]
                if position in run.frames:
                    packet.opaque = position
                if packets.skip:
                    decoder.skip_frame = "DEFAULT" if position in run.frames else "NONREF"
                for frame in decoder.decode(packet):
                    if frame.opaque is not None:
                        yield frame.opaque, frame
            if number == run.last:
                break
        for frame in decoder.decode(None):
            if frame.opaque is not None:
                yield frame.opaque, frame


def _stored(container: av.container.InputContainer, stream: av.VideoStream, unpack: bool) -> Iterator[av.Packet]:
    """The packets of the stream in the order of the file."""
    if not unpack:
        return (packet for packet in _demuxed(container, stream) if packet.size)
    unpacked = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    filtered = (unpacked.filter(packet if packet.size else None) for packet in _demuxed(container, stream))
    return itertools.chain.from_iterable(filtered)


def _demuxed(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """All packets, the empty last one too. PyAV's own generator loses memory if it is dropped half-way, unclosed."""
    with contextlib.closing(container.demux(stream)) as packets:
        yield from packets


def _frames(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames, in the order of their display."""
    return itertools.chain.from_iterable(packet.decode() for packet in _demuxed(container, stream))


def learn(path: Path) -> Packets | None:
    """Which packet carries which frame, and where decoding may begin, if that holds for every frame of this clip.

    The clip is decoded in order; then by what was learned, whole and in parts. The same pictures must come out. None if
    they do not, if the decoder does not tell which packet a frame is from, or if it had to make up a part of a damaged
    one, for which it takes what it has decoded before.
    """
    picture = Picture()

    def digest(frame: av.VideoFrame) -> int:
        return zlib.crc32(np.ascontiguousarray(picture(frame)))

    with _opening(path) as container, _reading(path):
        stream = _video(path, container)
        truth = []
        for frame in _frames(container, stream):
            if frame.is_corrupt:
                return None
            truth.append(digest(frame))
        divx = stream.codec_context.name == "mpeg4"
    learned = _learn(path, truth, digest, unpack=False)
    if divx and not (learned and learned.skip):
        learned = _learn(path, truth, digest, unpack=True) or learned
    return learned


def _learn(path: Path, truth: list[int], digest: Callable[[av.VideoFrame], int], unpack: bool) -> Packets | None:
    frame_of, stamps, keys, shown = [], [], [], []
    with _opening(path) as container, _reading(path):
        stream = _video(path, container)
        decoder = stream.codec_context
        decoder.flags |= Flags.copy_opaque
        for packet in itertools.chain(_stored(container, stream, unpack), [None]):
            if packet:
                packet.opaque = len(frame_of)
                keys += [len(frame_of)] if packet.is_keyframe else []
                frame_of.append(-1)
                stamps.append(packet.dts)
            for frame in decoder.decode(packet):
                if frame.opaque is None or frame_of[frame.opaque] >= 0:
                    return None
                frame_of[frame.opaque] = len(shown)
                shown.append(digest(frame))
    if shown != truth:
        return None

    def wrong(packets: Packets, frames: Iterable[int], far: int = FAR) -> set[int]:
        missing = set(frames)
        with _opening(path) as container, contextlib.suppress(av.FFmpegError):
            for position, frame in sparse(container, _video(path, container), packets, frames, far):
                if digest(frame) == truth[position]:
                    missing.discard(position)
        return missing

    entries = []
    for key in keys:
        if frame_of[key] > (frame_of[entries[-1]] if entries else -1):
            entries.append(key)

    def referred() -> Iterator[tuple[int, int]]:
        """The frames to which others refer, by what the stream says, decoded without the others."""
        with _opening(path) as container, _reading(path):
            stream = _video(path, container)
            decoder = stream.codec_context
            decoder.flags |= Flags.copy_opaque
            decoder.skip_frame = "NONREF"
            for number, packet in enumerate(itertools.chain(_stored(container, stream, unpack), [None])):
                if packet:
                    packet.opaque = number
                yield from ((frame_of[frame.opaque], digest(frame)) for frame in decoder.decode(packet))

    def unfit(packets: Packets) -> set[int]:
        """Entries from which a frame comes out wrong, where what is stored before them has not been decoded."""
        entry_of = {frame: packets.entry_before(frame) for frame in range(len(truth))}
        halves = ([frame for frame in entry_of if entry_of[frame] % 2 == k] for k in (0, 1))
        return {entry_of[frame] for half in halves for frame in wrong(packets, half)}

    if not entries:
        return None
    packets = Packets(frame_of, entries, [None] * len(entries), skip=False, unpack=unpack)
    while bad := unfit(packets):
        if not bad.isdisjoint({-1, 0}):
            return None
        entries = [key for entry, key in enumerate(packets.entries) if entry not in bad]
        packets = replace(packets, entries=entries, dts=[None] * len(entries))
    seen = Counter(stamps)
    sought = replace(packets, dts=[stamps[key] if seen[stamps[key]] == 1 else None for key in entries])
    if not wrong(sought, sought.starts, far=0):
        packets = sought
    hasty = replace(packets, skip=True)
    alone = all(truth[position] == shown for position, shown in referred())
    return packets if not alone or any(wrong(hasty, range(k, len(truth), 5)) for k in range(5)) else hasty


class Picture:
    """From a decoded frame to an upright RGB array (H, W, 3), scaled so that the shorter side has so many pixels.

    Raises ValueError where a frame is not as large as the first.
    """

    def __init__(self, short_side: int | None = None):
        self.short_side, self.size = short_side, None
        self.scale, self.convert = VideoReformatter(), VideoReformatter()  # setting one up costs more than a frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = frame.width, frame.height
        self.size = self.size or (width, height)
        if self.size != (width, height):
            raise ValueError(f"pictures of several sizes, {self.size} and {(width, height)}")
        if self.short_side:
            scale = self.short_side / min(width, height)
            width, height = round(width * scale), round(height * scale)
            if scale > 0.5 and frame.format.name.startswith("yuv"):  # three times faster, for some sharpness of colour
                frame = self.scale.reformat(frame, width, height, "yuv422p", interpolation="BILINEAR")
        (plane,) = self.convert.reformat(frame, width, height, "rgb24", interpolation="BILINEAR").planes
        pixels = np.frombuffer(plane, np.uint8)
        array = as_strided(pixels, (height, width, 3), (plane.line_size, 3, 1))  # a view: to_ndarray() copies
        return np.rot90(array, frame.rotation // 90) if frame.rotation else array


def endless(path: Path) -> bool:
    """Whether it is a pipe or a device, which may never end."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _opening(path: Path) -> av.container.InputContainer:
    if endless(path):
        raise ClipError(f"{path}: no file, but a pipe or device")
    with _reading(path, "cannot be opened as a video"):
        return av.open(f"file:{path}", options=OPENING, metadata_errors="replace")


def _video(path: Path, container: av.container.InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise ClipError(f"{path}: no video in it")
    stream = container.streams.best("video")  # not the cover
    if not stream or not stream.codec_context:
        raise ClipError(f"{path}: FFmpeg has no decoder for it; convert the clip")
    if stream.width * stream.height > LARGEST:
        raise ClipError(f"{path}: {stream.width}×{stream.height}; no picture may have more than {LARGEST:,} pixels")
    stream.codec_context.options = {"max_pixels": str(LARGEST)}  # of those that come, too
    stream.thread_type = "NONE"
    return stream


@contextlib.contextmanager
def _reading(path: Path, what: str = "broken while decoding") -> Iterator[None]:
    try:
        yield
    except ClipError:
        raise
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:  # IndexError: of PyAV, in some FLV
        said, number = getattr(error, "strerror", None) or str(error), getattr(error, "errno", None)
        if isinstance(error, MemoryError) or number == errno.ENOMEM:
            said = "it asks for more memory than a clip may take"
        elif number == errno.EINVAL:
            said += f"; such as pictures of more than {LARGEST:,} pixels"
        raise ClipError(f"{path}: {what} ({said})") from None


def _fps(path: Path, rate: Fraction | None) -> float:
    """Frames per second, from time lapses to high-speed cameras."""
    if not rate or not 0.001 <= rate <= 100_000:
        said = f"{float(rate):.2g} frames per second" if rate else "no frame rate"
        raise ClipError(f"{path}: the container states {said}; convert the clip, e.g. with ffmpeg -r 25")
    return float(rate)


def _riff_bytes(path: Path) -> int:
    """How long the first RIFF chunk of an AVI file says it is; what follows (OpenDML) may make the file longer."""
    with path.open("rb") as file:
        head = file.read(8)
    return int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" else 0
