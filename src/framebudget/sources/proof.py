"""Build the index of a clip, and check it on the clip: every frame read by it must equal the one decoded in order.

This takes the time of about three decodings, the first of which also describes the clip (`reader.probe`). A clip that
fails a part of the check is decoded once or twice more. `benchmarks/fetching.py` measures the time.
"""

import contextlib
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import av
import av.logging
import numpy as np

from framebudget.video.container import Picture, Video, open_video
from framebudget.video.index import FrameIndex, packets, packets_before

MPEG4_FRAME = b"\0\0\1\xb6"  # the bytes with which each frame in a packet begins
NEW_DECODER = 200  # packets after which the check opens the file again; opening H.264 takes as long as decoding eight


class Truth:
    """A clip as plain decoding in order gives it. Reading by an index must reproduce it.

    digests: of each frame. packet_of: the number of the packet that carries each frame; -1 if the decoder does not say.
    concealed: whether the decoder replaced damaged parts with pixels that it had decoded before.
    suspect: whether the decoder logged an error. Frames of a damaged clip may need others that they do not refer to.
    packed: whether a packet holds two frames of MPEG-4, as DivX wrote them.
    """

    def __init__(self, path: Path):
        self.path, self.picture = path, Picture()
        self.digests: list[int] = []
        self.packet_of: list[int] = []
        self.codec, self.packets = "", 0
        self.concealed, self.suspect, self.packed = False, False, False

    def decode(self, stream: av.VideoStream, packet: av.Packet) -> list[av.VideoFrame]:
        """Decode the next packet of the clip, and take note of the frames that come out."""
        self.codec = stream.codec_context.name
        if packet.size:
            packet.opaque = (self.packets,)
            self.packets += 1
            self.packed |= self.codec == "mpeg4" and bytes(packet).count(MPEG4_FRAME) > 1
        av.logging.set_level(av.logging.FATAL)  # PyAV then counts the errors of FFmpeg, but prints none
        errors, _ = av.logging.get_last_error()
        try:
            frames = stream.decode(packet)
        finally:
            av.logging.set_level(None)
        self.suspect |= av.logging.get_last_error()[0] > errors
        for frame in frames:
            self.digests.append(self.digest(frame))
            self.packet_of.append(frame.opaque[0] if isinstance(frame.opaque, tuple) else -1)
            self.concealed |= frame.is_corrupt
        return frames

    def digest(self, frame: av.VideoFrame) -> int:
        """A hash of all that determines the picture: pixels as they are stored, with a key that no file can know.

        A row becomes the sum of its 64-bit words times random odd numbers, modulo 2**64. One wrong word in a row always
        changes it. Several wrong words leave it unchanged with a probability of at most 2**(v - 63), if 2**v is the
        largest power of two that divides all their differences. A CRC-32 of the picture takes five times as long.
        """
        looks = frame.width, frame.height, frame.rotation, frame.interlaced_frame, frame.colorspace, frame.color_range
        parts: list[object] = [frame.format.name, *looks]
        for rows_HB in stored_pixels(frame) or [np.ascontiguousarray(self.picture(frame)).reshape(frame.height, -1)]:
            words = rows_HB.shape[1] // 8
            parts.append(np.einsum("ij,j->i", rows_HB[:, : 8 * words].view(np.uint64), random_key(words)).tobytes())
            parts.append(rows_HB[:, 8 * words :].tobytes())
        return hash(tuple(parts))

    def compare(
        self, index: FrameIndex, frames: Collection[int], video: Video | None = None, every: bool = False
    ) -> tuple[set[int], set[int]]:
        """Read these frames by the index, with every seek. Returns those that come out right, and those that do not.

        video: an open file to read from, in which seeks find every entry. every: also compare the frames that are
        decoded on the way and belong to the same entries.
        """
        right, wrong, entries = set[int](), set[int](), index.by_entry(frames)
        opened = contextlib.nullcontext(video) if video else open_video(self.path)
        with opened as source, contextlib.suppress(av.FFmpegError):
            for number, frame in index.decode(source, frames, 0, every):
                if index.entry_of(number) in entries:
                    (right if self.digest(frame) == self.digests[number] else wrong).add(number)
        return right - wrong, wrong.union(frames) - (right - wrong)


def stored_pixels(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame, uint8 (rows, bytes); empty if a plane holds several colors, or a byte several pixels."""
    planes = frame.planes
    size = bytes_per_pixel(frame.format.name, len(planes))
    rows = [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in planes if size]  # type: ignore[call-overload]
    return [rows_HB[:, : plane.width * size] for rows_HB, plane in zip(rows, planes, strict=False)]


@lru_cache
def bytes_per_pixel(pixel_format: str, planes: int) -> int:
    """Bytes per pixel in each plane; 0 if a plane holds several colors, or pixels of less than a byte."""
    colors = av.VideoFormat(pixel_format).components
    return (colors[0].bits + 7) // 8 if len(colors) == planes and colors[0].bits >= 8 else 0


@lru_cache
def random_key(words: int) -> np.ndarray:
    return np.random.default_rng().integers(0, 2**64, words, dtype=np.uint64) | np.uint64(1)


def build(path: Path) -> FrameIndex | None:
    """Decode a clip in order and build its index; see `prove`. Raises ClipError if the clip is broken."""
    truth = Truth(path)
    with open_video(path) as video:
        for packet in video.packets():
            truth.decode(video.stream, packet)
    return prove(truth)


def prove(truth: Truth) -> FrameIndex | None:
    """Build the index of a clip that was decoded once, and check it by reading the clip twice.

    The first reading asks for about half of the frames, and the second for the frames that the first one skipped. So
    every frame is read from its entry, while non-reference frames elsewhere are skipped. The halves follow a pattern
    without period, because the frame types of a video have one. The first reading seeks to every entry, and uses new
    decoders, which know nothing of the clip. The second uses a decoder that was flushed after other parts of the clip.

    This proves the frames and the seeks. Two readings cannot prove that all other sets of frames come out right, too.
    That follows from the codec's definition: no frame refers to a non-reference frame, and decoding may begin at a key
    frame. The two readings are evidence that this file complies. An error that the decoder logs is evidence against it.
    If the decoder logs one, or a reading gives a wrong frame, `_careful` gives up shortcuts.

    Returns None if decoding by the index gives wrong frames, if the decoder concealed damage, or if it does not report
    which packet a frame comes from.
    """
    if truth.concealed:
        return None
    with open_video(truth.path) as video:
        index = _candidate(truth, video)
        if index is None:
            return None
        skipped = None if truth.suspect else _skipped_by_new_decoders(truth, index)
        if skipped is not None and _flushed_decoder_gives(truth, index, skipped, video):
            return replace(index, skip=bool(skipped))
    return _careful(truth, index)


def _candidate(truth: Truth, video: Video) -> FrameIndex | None:
    """The index with every shortcut that looks possible. Decodes nothing."""
    stored = [(packet.dts, packet.is_keyframe, zlib.crc32(packet)) for packet in packets(video, truth.packed)]
    frame_of = [-1] * len(stored)
    for frame, packet in enumerate(truth.packet_of):
        if not 0 <= packet < len(stored) or frame_of[packet] >= 0:
            return None
        frame_of[packet] = frame
    entries: list[int] = []
    for packet, (_, is_keyframe, _) in enumerate(stored):
        if is_keyframe and frame_of[packet] > (frame_of[entries[-1]] if entries else -1):
            entries.append(packet)
    if not entries or frame_of[entries[0]] > 0:
        return None
    count = Counter(dts for dts, _, _ in stored)
    dts = [stored[entry][0] if count[stored[entry][0]] == 1 else None for entry in entries]
    for entry, seek_to in zip(entries, dts, strict=True):
        if seek_to is not None and not _finds(video, truth.packed, seek_to, stored[entry]):
            dts = [None] * len(entries)
            break
    return FrameIndex(frame_of, entries, dts, skip=True, unpack=truth.packed)


def _finds(video: Video, unpack: bool, seek_to: int, stored: tuple[int | None, bool, int]) -> bool:
    """Whether a seek finds this packet."""
    with contextlib.suppress(av.FFmpegError):
        for packet in packets(video, unpack, seek_to):
            return (packet.dts, packet.is_keyframe, zlib.crc32(packet)) == stored
    return False


def _skipped_by_new_decoders(truth: Truth, index: FrameIndex) -> set[int] | None:
    """Read about half of the frames, and seek to every entry. Returns the skipped frames, or None if one is wrong.

    Opens the file again after NEW_DECODER packets, but no more than 1,000 times, or 16 times if no seek is possible.
    """
    packets, groups, skipped = len(index.frame_of), index.by_entry(range(len(truth.digests))), set[int]()
    block = 8 * packets_before(truth.codec) or 1
    odd = {frame for frame, packet in enumerate(truth.packet_of) if (packet // block).bit_count() % 2}
    batch = max(NEW_DECODER, packets // (16 if None in index.dts else 1000))
    ends = [*index.entries[1:], packets]
    for half in (0, 1):  # so that no entry is reached from the one before
        entries: list[int] = []
        for entry in range(half, len(ends), 2):
            entries.append(entry)
            if entry + 2 < len(ends) and sum(ends[e] - index.entries[e] for e in entries) < batch:
                continue
            frames = {frame for e in entries for frame in groups[e]}
            lasts = {max(groups[e], key=truth.packet_of.__getitem__) for e in entries}
            right, wrong = truth.compare(index, frames & odd | lasts, every=True)
            if wrong:
                return None
            skipped |= frames - right
            entries = []
    return skipped


def _flushed_decoder_gives(truth: Truth, index: FrameIndex, frames: set[int], video: Video) -> bool:
    """Whether these frames and the key frames come out right; of many key frames, one for every eight frames."""
    step = 8 * len(index.entries) // len(truth.digests) + 1
    groups = index.by_entry(frames.union(index.frame_of[entry] for entry in index.entries[::step]))
    return not _wrong(truth, index, groups, None if None in index.dts else video)


def _wrong(truth: Truth, index: FrameIndex, groups: dict[int, list[int]], video: Video | None = None) -> set[int]:
    """Read every other entry's frames, and then the others', so that no entry is reached from the one before."""
    halves = [[frame for entry in groups if entry % 2 == half for frame in groups[entry]] for half in (0, 1)]
    return set().union(*(truth.compare(index, half, video)[1] for half in halves if half))


def _careful(truth: Truth, index: FrameIndex) -> FrameIndex | None:
    """The index without skipping, without entries that need packets stored before them, and without seeks if one fails.

    None if the first entry needs such packets, or the rest still gives wrong frames.
    """
    seeks, entries = dict(zip(index.entries, index.dts, strict=True)), index.entries
    for _ in range(2):
        index = replace(index, entries=entries, dts=[None] * len(entries), skip=False)
        groups = index.by_entry(range(len(truth.digests)))
        wrong = _wrong(truth, index, groups)
        if not wrong:
            seeking = replace(index, dts=[seeks[entry] for entry in entries])
            keys = [index.frame_of[entry] for entry in entries]
            return index if truth.compare(seeking, keys)[1] else seeking
        if not wrong.isdisjoint(groups[0]):
            return None
        entries = [packet for entry, packet in enumerate(entries) if wrong.isdisjoint(groups[entry])]
    return None
