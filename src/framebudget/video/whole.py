"""Check whether a file is whole, or only its first part, as after an interrupted download."""

from pathlib import Path

import av

from framebudget.video.container import ClipError, Video

RIFF_SLACK = 512  # bytes
HEAD, TAIL = 2**13, 2**17  # bytes that are searched at the beginning and the end of a file
SEGMENT = bytes.fromhex("18538067")  # of a Matroska file
PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object of an ASF file that states its length


class Completeness:
    """Whether a file is complete, from all of its packets: call it with each, then `check`.

    A file that announces no number of frames and is cut exactly between two of its parts looks complete.
    """

    def __init__(self, path: Path, video: Video):
        self.path, self.video, self.packets, self.torn = path, video, 0, False

    def __call__(self, packet: av.Packet) -> bool:
        """Count the packet. Returns whether it is of the video."""
        self.torn = packet.is_corrupt if packet.size else self.torn  # the last one counts
        if packet.stream.index != self.video.stream.index:
            return False
        self.packets += packet.dts is not None or packet.size > 0
        if self.video.is_avi and packet.dts is not None:  # an empty chunk repeats the last frame: announced, no packet
            self.packets = max(self.packets, packet.dts + 1)
        return True

    def check(self, damaged: bool = False) -> str | None:
        """Raises ClipError if the file has been cut off. Returns what is odd about a complete one.

        damaged: whether the decoder says so of the last frames.
        """
        path, announced = self.path, self.video.stream.frames
        missing, odd = announced - self.packets, None
        if self.video.is_avi and missing == 1 and not self.torn and not _is_shorter_than_its_riff(path):
            missing, odd = 0, "its header announces one frame more than it has"  # as some programs do
        if missing > 0:
            raise ClipError(
                f"{path}: truncated, {self.packets} of {announced} announced frames are there; copy the file again"
            )
        if self.torn or (damaged and not announced) or _is_cut(path, self.video.container.format.name):
            raise ClipError(f"{path}: truncated, it ends in the middle of a part; copy the file again")
        return odd


def _is_shorter_than_its_riff(path: Path) -> bool:
    """Whether an AVI file is shorter than its first RIFF chunk. More may follow the chunk (OpenDML).

    Some programs count the eight bytes before the chunk, too, or round its length up, or leave it open.
    """
    with path.open("rb") as file:
        head = file.read(8)
    stated = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and stated != 2**32 - 1 and stated > path.stat().st_size + RIFF_SLACK


def _is_cut(path: Path, container: str) -> bool:
    """Whether a file ends within a part whose length it states."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(begin := max(0, size - TAIL))
        tail = file.read()
    match container:
        case "matroska,webm":
            return _end_of_segment(head) > size
        case "asf":
            return _stated_by_asf(head) > size
        case "mpegts":  # packets of 188 bytes, of 192 with a time, of 204 with check bytes
            return all(size % length for length in (188, 192, 204))
        case "ogg":
            return begin + _end_of_last_page(tail) > size
        case "mpeg":
            return begin + _end_of_last_packet(tail) > size
    return False


def _end_of_segment(head: bytes) -> int:
    """Where the segment of a Matroska or WebM file ends (RFC 8794, RFC 9559); 0 if it is open or not at the start."""

    def number(at: int) -> tuple[int, int]:
        """A number of variable length, 0 if it is unknown (all ones), and where it ends."""
        length = 9 - head[at].bit_length()
        ones = (1 << 7 * length) - 1
        value = int.from_bytes(head[at : at + length], "big") & ones
        return value if value != ones else 0, at + length

    size, begin = number(4)  # of the header, after its identifier
    segment = begin + size
    if head[segment : segment + 4] != SEGMENT or segment + 12 > len(head):
        return 0
    size, begin = number(segment + 4)
    return begin + size if size else 0


def _stated_by_asf(head: bytes) -> int:
    """The length that an ASF file (.wmv) states in its file properties object; 0 if it does not."""
    at = head.find(PROPERTIES)
    return int.from_bytes(head[at + 40 : at + 48], "little") if at >= 0 else 0


def _end_of_last_page(tail: bytes) -> int:
    """Where the last page of an Ogg file ends (RFC 3533)."""
    page = tail.rfind(b"OggS")
    segments = tail[page + 26] if page + 26 < len(tail) else 1
    return page + 27 + segments + sum(tail[page + 27 : page + 27 + segments])


def _end_of_last_packet(tail: bytes) -> int:
    """Where the last packet of an MPEG program stream (.mpg) ends (ISO 13818-1, 2.4.3.6); 0 if there is none."""
    at = len(tail)
    while (at := tail.rfind(b"\0\0\1", 0, at)) >= 0:
        if at + 6 > len(tail):
            return at + 6
        if tail[at + 3] >= 0xBC:  # a smaller code is of a picture, or of a pack
            return at + 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
    return 0
