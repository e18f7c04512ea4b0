"""Which packet of a clip carries which frame, so that a reader decodes only what it needs.

`fetch` builds the index of every clip once and checks it on the clip itself: every frame decoded by the index must
equal the one decoded in order. A clip that fails this check gets no index and is always decoded from its start.
"""

import contextlib
import itertools
import json
import zlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pandas as pd
from av.bitstream import BitStreamFilterContext

from framebudget.console import UserError
from framebudget.video.container import Picture, Video, open_video

SEEK_BEYOND = 100  # packets: a seek is faster than reading past this many
Numbered = Iterator[tuple[int, av.VideoFrame]]


class PacketRange(NamedTuple):
    """Packets `first` to `last`, which yield `frames`. A seek to `dts`, if not None, finds `first`."""

    first: int
    last: int
    dts: int | None
    frames: set[int]


@dataclass(frozen=True)
class FrameIndex:
    """The index of one clip.

    frame_of: the frame that each packet of the video stream carries, -1 for none (the second field of a frame, say).
    entries: packets of key frames where decoding may begin; all frames up to the next entry decode correctly.
    dts: decoding timestamps of the entries; None where a seek does not find the entry.
    skip: whether non-reference frames, which no other frame needs, may be left undecoded.
    unpack: whether packets are counted after FFmpeg's filter mpeg4_unpack_bframes (DivX put two frames into one).
    """

    frame_of: list[int]
    entries: list[int]
    dts: list[int | None]
    skip: bool
    unpack: bool

    def by_entry(self, frames: Iterable[int]) -> dict[int, list[int]]:
        """Sorted frames, grouped by the place in `entries` where their decoding begins; -1: no entry reaches them."""
        first_frames, groups = [self.frame_of[packet] for packet in self.entries], defaultdict(list)
        for frame in sorted(frames):
            groups[bisect_right(first_frames, frame) - 1].append(frame)
        return groups

    def ranges(self, frames: Iterable[int]) -> list[PacketRange]:
        """The shortest ranges of packets that yield these frames, in file order and without overlap."""
        packet_of = {frame: packet for packet, frame in enumerate(self.frame_of)}
        found: list[PacketRange] = []
        for entry, wanted in self.by_entry(frames).items():
            last = max(packet_of[frame] for frame in wanted)
            while last + 1 < len(self.frame_of) and self.frame_of[last + 1] < 0:
                last += 1  # a packet without a frame of its own belongs to the one before
            part = PacketRange(self.entries[entry], last, self.dts[entry], set(wanted))
            if found and found[-1].last >= part.first:  # open GOP: frames displayed before a key frame are after it
                before = found.pop()
                part = before._replace(last=max(before.last, last), frames=before.frames | part.frames)
            found.append(part)
        return found

    def decode(self, video: Video, wanted: Iterable[int], seek_beyond: int = SEEK_BEYOND) -> Numbered:
        """Yield the wanted frames, numbered as in the clip, decoding no more than necessary."""
        decoder, packets, number = video.stream.codec_context, enumerate(_packets(video, self.unpack)), -1
        for part in self.ranges(wanted):
            if part.dts is not None and part.first - number > seek_beyond:
                packets = enumerate(_packets(video, self.unpack, part.dts), part.first)
            decoder.flush_buffers()
            for number, packet in packets:
                if number >= part.first:
                    needed = self.frame_of[number] in part.frames
                    if self.skip:
                        decoder.skip_frame = "DEFAULT" if needed else "NONREF"
                    yield from _decode(decoder, packet, self.frame_of[number] if needed else None)
                if number == part.last:
                    break
            yield from _decode(decoder, None)


def build(path: Path) -> FrameIndex | None:
    """Build the index of a clip and check it: decoding by the index must give the same frames as decoding in order.

    Returns None if that fails, or if the decoder conceals damage (with whatever it decoded before) or does not report
    which packet a frame comes from. Raises ClipError if the clip is broken.
    """
    clip = Clip(path)
    with open_video(path) as video:
        codec = video.stream.codec_context.name
        for frame in video.frames():
            if frame.is_corrupt:
                return None
            clip.digests.append(clip.digest(frame))
    index = _prove(clip, unpack=False)
    if codec == "mpeg4" and not (index and index.skip):
        index = _prove(clip, unpack=True) or index
    return index


class Clip:
    """A clip and the CRC-32 of each frame decoded in order, which decoding by an index must reproduce."""

    def __init__(self, path: Path):
        self.path, self.picture = path, Picture()
        self.digests: list[int] = []

    def digest(self, frame: av.VideoFrame) -> int:
        return zlib.crc32(np.ascontiguousarray(self.picture(frame)).data)

    def wrong(self, index: FrameIndex, frames: Collection[int], seek_beyond: int = SEEK_BEYOND) -> set[int]:
        """Return the frames that decoding by the index misses or gets wrong."""
        wrong = set(frames)
        with open_video(self.path) as video, contextlib.suppress(av.FFmpegError):
            for number, frame in index.decode(video, frames, seek_beyond):
                if self.digest(frame) == self.digests[number]:
                    wrong.discard(number)
        return wrong


def _prove(clip: Clip, unpack: bool) -> FrameIndex | None:
    """Return the index with every shortcut that works for this clip, or None if even the frames are wrong."""
    with open_video(clip.path) as video:
        packets = [(packet.dts, packet.is_keyframe) for packet in _packets(video, unpack)]
    frame_of = [-1] * len(packets)
    digests: list[int] = []
    entries: list[int] = []
    for packet, frame in _decode_all(clip, unpack):
        if frame_of[packet] >= 0:
            return None
        frame_of[packet] = len(digests)
        digests.append(clip.digest(frame))
    if digests != clip.digests:
        return None
    for packet, (_, is_keyframe) in enumerate(packets):
        if is_keyframe and frame_of[packet] > (frame_of[entries[-1]] if entries else -1):
            entries.append(packet)
    index = _with_good_entries(clip, frame_of, entries, unpack)
    if index is None:
        return None
    count = Counter(dts for dts, _ in packets)
    stamps = [packets[entry][0] for entry in index.entries]
    seeking = replace(index, dts=[dts if count[dts] == 1 else None for dts in stamps])
    if not clip.wrong(seeking, [frame_of[entry] for entry in index.entries], seek_beyond=0):
        index = seeking
    return replace(index, skip=_may_skip(clip, index))


def _with_good_entries(clip: Clip, frame_of: list[int], entries: list[int], unpack: bool) -> FrameIndex | None:
    """Leave out entries that need packets stored before them. Return None if the first one does.

    Decoding the frames of every other entry reveals them, because the decoder then restarts at each.
    """
    while entries:
        index = FrameIndex(frame_of, entries, [None] * len(entries), skip=False, unpack=unpack)
        groups = index.by_entry(range(len(clip.digests)))
        halves = [[frame for entry in groups if entry % 2 == half for frame in groups[entry]] for half in (0, 1)]
        wrong = clip.wrong(index, halves[0]) | clip.wrong(index, halves[1])
        if not wrong:
            return index
        if not wrong.isdisjoint([*groups.get(-1, []), *groups[0]]):
            return None
        entries = [packet for entry, packet in enumerate(entries) if wrong.isdisjoint(groups[entry])]
    return None


def _may_skip(clip: Clip, index: FrameIndex) -> bool:
    """Whether all other frames stay the same when the decoder skips non-reference frames.

    Tries this with all of them skipped, and with every fifth frame wanted and those between skipped where possible.
    """
    for packet, frame in _decode_all(clip, index.unpack, skip=True):
        if clip.digest(frame) != clip.digests[index.frame_of[packet]]:
            return False
    skipping = replace(index, skip=True)
    return not any(clip.wrong(skipping, range(k, len(clip.digests), 5)) for k in range(5))


def _decode_all(clip: Clip, unpack: bool, skip: bool = False) -> Numbered:
    """Decode a clip in order. Yield (number of its packet, frame) for each frame that reports its packet."""
    with open_video(clip.path) as video:
        decoder = video.stream.codec_context
        decoder.skip_frame = "NONREF" if skip else "DEFAULT"
        for number, packet in enumerate(_packets(video, unpack)):
            yield from _decode(decoder, packet, number)
        yield from _decode(decoder, None)


def _decode(decoder: av.VideoCodecContext, packet: av.Packet | None, mark: int | None = None) -> Numbered:
    """Decode a packet, or flush the decoder. Frames may come out late: yield those whose packet had a mark, with it."""
    if packet is not None:
        packet.opaque = mark
    return ((frame.opaque, frame) for frame in decoder.decode(packet) if isinstance(frame.opaque, int))


def _packets(video: Video, unpack: bool, seek_to: int | None = None) -> Iterator[av.Packet]:
    """The packets that an index counts, in file order: all, or from the one with this decoding timestamp on."""
    if seek_to is not None:
        video.container.seek(seek_to, stream=video.stream)
    packets: Iterator[av.Packet] = (packet for packet in video.packets() if unpack or packet.size)
    if unpack:
        unpacker = BitStreamFilterContext("mpeg4_unpack_bframes", video.stream)
        split = (unpacker.filter(packet if packet.size else None) for packet in packets)
        packets = itertools.chain.from_iterable(split)
    return packets if seek_to is None else itertools.dropwhile(lambda packet: packet.dts != seek_to, packets)


def dump(clips: dict[str, FrameIndex | None]) -> str:
    """JSON, one line for each path."""
    lines = [f"{json.dumps(path)}: {json.dumps(index and asdict(index))}" for path, index in clips.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def joined(clips: pd.DataFrame, path: Path = Path("work/index.json")) -> pd.DataFrame:
    """Add the column `frame_index` to a table of clips. Raises UserError if the file is not about these clips."""
    try:
        stored = json.loads(path.read_text())
        found = [stored[name] and FrameIndex(**stored[name]) for name in clips["path"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it: dvc repro -f fetch") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} does not fit these clips ({error!r}); make it again: dvc repro -f fetch") from None
    return clips.assign(frame_index=pd.Series(found, clips.index, object))
