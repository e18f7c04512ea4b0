"""Which packet of a clip carries which frame, so that a reader decodes only what it needs.

`fetch` builds the index of every clip once (`framebudget.sources.proof`) and checks it on the clip itself. A clip that
fails the check gets no index and is always decoded from its start.
"""

import itertools
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import av
import pandas as pd
from av.bitstream import BitStreamFilterContext

from framebudget.console import UserError
from framebudget.video.container import Video

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

    def entry_of(self, frame: int) -> int:
        """The place in `entries` where decoding of this frame begins; -1: no entry reaches it."""
        return bisect_right(self.entries, frame, key=self.frame_of.__getitem__) - 1

    def by_entry(self, frames: Iterable[int]) -> dict[int, list[int]]:
        """Sorted frames, grouped by `entry_of`."""
        groups = defaultdict(list)
        for frame in sorted(frames):
            groups[self.entry_of(frame)].append(frame)
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

    def decode(
        self, video: Video, wanted: Iterable[int], seek_beyond: int = SEEK_BEYOND, every: bool = False
    ) -> Numbered:
        """Yield the wanted frames, numbered as in the clip, decoding no more than necessary.

        every: also yield the frames that are decoded on the way.
        """
        decoder, stored, number = video.stream.codec_context, enumerate(packets(video, self.unpack)), -1
        near = packets_before(decoder.name)
        for part in self.ranges(wanted):
            if part.dts is not None and part.first - number > seek_beyond:
                stored = enumerate(packets(video, self.unpack, part.dts), part.first)
            decoder.flush_buffers()
            for number, packet in stored:
                if number >= part.first:
                    frame = self.frame_of[number]
                    if self.skip:
                        unneeded = part.frames.isdisjoint(self.frame_of[number : number + near + 1])
                        decoder.skip_frame = "NONREF" if unneeded else "DEFAULT"
                    yield from decode_packet(decoder, packet, frame if frame in part.frames or every else None)
                if number == part.last:
                    break
            yield from decode_packet(decoder, None)


def packets_before(codec: str) -> int:
    """How many packets before that of a wanted frame are always decoded, even if they hold non-reference frames.

    MPEG's B-frames depend on reference frames alone. The decoders of later codecs remember more, and use it if a frame
    is damaged: the fuzzer found an H.264 file whose last frame needed the non-reference frames just before it.
    """
    return 0 if codec in ("mpeg4", "mpeg2video", "mpeg1video") else 2


def decode_packet(decoder: av.VideoCodecContext, packet: av.Packet | None, mark: int | None = None) -> Numbered:
    """Decode a packet, or flush the decoder. Frames may come out late: yield those whose packet had a mark, with it."""
    if packet is not None:
        packet.opaque = None if mark is None else (mark,)  # a tuple: PyAV confuses equal objects, and there is one 7
    return ((frame.opaque[0], frame) for frame in decoder.decode(packet) if isinstance(frame.opaque, tuple))


def packets(video: Video, unpack: bool, seek_to: int | None = None) -> Iterator[av.Packet]:
    """The packets that an index counts, in file order: all, or from the one with this decoding timestamp on."""
    if seek_to is not None:
        video.container.seek(seek_to, stream=video.stream)
    stored: Iterator[av.Packet] = (packet for packet in video.packets() if unpack or packet.size)
    if unpack:
        unpacker = BitStreamFilterContext("mpeg4_unpack_bframes", video.stream)
        split = (unpacker.filter(packet if packet.size else None) for packet in stored)
        stored = itertools.chain.from_iterable(split)
    return stored if seek_to is None else itertools.dropwhile(lambda packet: packet.dts != seek_to, stored)


def dump(clips: pd.DataFrame) -> str:
    """JSON, one line for each path: its frame_index, and shown."""
    columns = [clips[name].tolist() for name in ("path", "frame_index", "shown")]
    stored = {
        path: {"index": index and asdict(index), "shown": shown} for path, index, shown in zip(*columns, strict=True)
    }
    lines = [f"{json.dumps(path)}: {json.dumps(facts)}" for path, facts in stored.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def joined(clips: pd.DataFrame, path: Path = Path("work/index.json")) -> pd.DataFrame:
    """Add the columns frame_index and shown to a table of clips. Raises UserError if the file is not about these
    clips."""
    try:
        stored = json.loads(path.read_text())
        found = [stored[name]["index"] and FrameIndex(**stored[name]["index"]) for name in clips["path"]]
        shown = [stored[name]["shown"] for name in clips["path"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it: dvc repro -f fetch") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} does not fit these clips ({error!r}); make it again: dvc repro -f fetch") from None
    return clips.assign(frame_index=pd.Series(found, clips.index, object), shown=pd.Series(shown, clips.index, object))
