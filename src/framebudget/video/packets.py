"""Which packet of a clip carries which frame, so that a reader decodes no more than it must.

`fetch` learns it once for every clip and proves it on the clip itself (`reader.learn`); a clip on which it cannot be
proved has none, and is decoded in order from its start.
"""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Run(NamedTuple):
    """Decode from packet `first` on, whose decoding time stamp is `dts`, to packet `last`: that yields `frames`."""

    first: int
    last: int
    dts: int | None
    frames: set[int]


@dataclass(frozen=True)
class Packets:
    """frame_of: the frame that each packet of the video stream carries, -1 for none of its own.

    entries: the packets at which decoding may begin; all frames from theirs to the next entry's come out right.
    dts: their decoding time stamps, by which they are sought; null where none leads there.
    skip: whether frames that no other refers to may be left undecoded.
    unpack: whether the packets are those that come out of FFmpeg's mpeg4_unpack_bframes (DivX put two frames in one).
    """

    frame_of: list[int]
    entries: list[int]
    dts: list[int | None]
    skip: bool
    unpack: bool

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # the rest is worked out again

    @cached_property
    def packet_of(self) -> dict[int, int]:
        return {frame: packet for packet, frame in enumerate(self.frame_of) if frame >= 0}

    @cached_property
    def starts(self) -> list[int]:
        return [self.frame_of[packet] for packet in self.entries]

    def runs(self, frames: Iterable[int]) -> list[Run]:
        """The shortest runs of packets that yield these frames, in order and apart from each other."""
        found = []
        for entry, group in itertools.groupby(sorted(frames), self.entry_before):
            wanted = set(group)
            last = max(self.packet_of[frame] for frame in wanted)
            while last + 1 < len(self.frame_of) and self.frame_of[last + 1] < 0:
                last += 1  # what carries no frame of its own, as a second field, belongs to the packet before
            if found and found[-1].last >= self.entries[entry]:  # frames shown before the entry, but stored after it
                first, before, dts, others = found.pop()
                found.append(Run(first, max(before, last), dts, others | wanted))
            else:
                found.append(Run(self.entries[entry], last, self.dts[entry], wanted))
        return found

    def entry_before(self, frame: int) -> int:
        """Which entry to begin at for this frame."""
        return bisect_right(self.starts, frame) - 1


def dump(clips: dict[str, Packets | None]) -> str:
    """JSON, a line a clip."""
    lines = [f"{json.dumps(path)}: {json.dumps(packets and asdict(packets))}" for path, packets in clips.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def joined(clips: pd.DataFrame, path: Path = Path("work/packets.json")) -> pd.DataFrame:
    """The table of clips with a column `packets`. Raises ValueError if the file is not that of these clips."""
    try:
        learned = json.loads(path.read_text())
        found = [learned[name] and Packets(**learned[name]) for name in clips["path"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not that of these clips ({error!r}); make it again: dvc repro -f fetch") from None
    return clips.assign(packets=found)
