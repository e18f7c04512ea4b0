"""Small damage to a file: to its bytes, to the chunks that its format is made of, or to words and lines of a text."""

import re
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

NUMBERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    30_000,
    0x7FFF,
    0x8000,
    0xFFFF,
    10**9,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)
WORDS = (
    "", "null", "~", "-1", "0", "1e309", "-1e-309", ".nan", "nan", "inf", "9" * 5000, "99999999999", "0.5", "true",
    "[", "{", "[" * 2000, "&a [*a]", "*a", "'", '"', "\0", "\n", "\r", ",", ":", "- ", "2001-99-99", "=1+1", "é",
    "\ufeff", "!!python/object/apply:os.system ['touch planted']", "!!python/name:os.system", "../../../etc/passwd",
    "a" * 10_000,
)  # fmt: skip
BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"}  # of MP4, that hold others
MASTERS = {
    0x18538067,
    0x1654AE6B,
    0xAE,
    0xE0,
    0x1F43B675,
    0x1549A966,
    0x1C53BB6B,
    0xBB,
    0xB7,
    0x114D9B74,
}  # of Matroska


class Chunk(NamedTuple):
    """Where a chunk lies, and where and how its size is written; width 0: nowhere."""

    start: int
    end: int
    size_at: int = 0
    width: int = 0
    order: str = "little"


def mutated(data: bytes, random: Random, text: bool) -> bytes:
    """The same, but for one to eight changes."""
    found = bytearray(data)
    kinds = [change_bytes, change_words] if text else [change_bytes, change_chunks]
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if found:
            random.choice(kinds)(found, random)
    return bytes(found)


def place(data: bytearray, random: Random) -> int:
    """Anywhere, or near the beginning or the end, where formats say what they hold."""
    near = int(min(len(data), 2048) * random.random() ** 2)
    return random.choice((near, len(data) - 1 - near, random.randrange(len(data)))) % len(data)


def change_bytes(data: bytearray, random: Random) -> None:
    at, length = place(data, random), random.choice((1, 2, 4, 8, 16, 188, 1000))
    match random.randrange(8):
        case 0:
            data[at] ^= 1 << random.randrange(8)
        case 1:
            data[at : at + length] = random.randbytes(min(length, len(data) - at))
        case 2:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(NUMBERS) % 256**width
            data[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))[: len(data) - at]
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = data[at : at + length]
        case 5:
            data[at:at] = random.randbytes(length)
        case 6:
            data[at : at + length] = bytes(min(length, len(data) - at))
        case 7:
            del data[max(at, 1) :]


def change_words(data: bytearray, random: Random) -> None:
    """Of lines or words, one is left out, doubled, or becomes another of the text, or what parsers stumble on."""
    pattern = random.choice((rb"[^\n]*\n", rb"[\w.]+|[^\w\s]"))
    spans = [match.span() for match in re.finditer(pattern, bytes(data))]
    if not spans:
        return
    (start, end), (first, last) = random.choice(spans), random.choice(spans)
    old, other = data[start:end], data[first:last]
    data[start:end] = random.choice((b"", old + old, other, random.choice(WORDS).encode()))


def change_chunks(data: bytearray, random: Random) -> None:
    """A chunk is left out, doubled, moved, cut, filled with noise, or resized; the sizes around it follow, or not."""
    found = list(chunks(bytes(data)))
    if not found:
        return change_bytes(data, random)
    chunk, other = random.choice(found), random.choice(found)
    content, before = bytes(data[chunk.start : chunk.end]), len(data)
    match random.randrange(6):
        case 0:
            del data[chunk.start : chunk.end]
        case 1:
            data[chunk.end : chunk.end] = content
        case 2:
            data[chunk.start : chunk.end] = data[other.start : other.end]
        case 3:
            del data[chunk.start + random.randrange(len(content)) : chunk.end]
        case 4:
            head = min(len(content), random.choice((0, 8, 16)))
            data[chunk.start + head : chunk.end] = random.randbytes(len(content) - head)
        case 5:
            number = random.choice((*NUMBERS, len(content) + random.randrange(-9, 9))) % 256 ** (chunk.width or 1)
            data[chunk.size_at : chunk.size_at + chunk.width] = number.to_bytes(chunk.width or 1, chunk.order)[
                : chunk.width
            ]
    grown = len(data) - before
    if grown and random.random() < 0.5:
        resize(data, [around for around in found if around.start < chunk.start and around.end >= chunk.end], grown)


def resize(data: bytearray, around: list[Chunk], grown: int) -> None:
    """Let these chunks state that they are so many bytes longer."""
    for chunk in around:
        if chunk.width:
            place = slice(chunk.size_at, chunk.size_at + chunk.width)
            number = (int.from_bytes(data[place], chunk.order) + grown) % 256**chunk.width
            data[place] = number.to_bytes(chunk.width, chunk.order)


def chunks(data: bytes) -> Iterator[Chunk]:
    """What the file is made of, the outer before the inner; nothing if the format is none of these."""
    if data[:4] == b"RIFF":
        yield from riff(data, 0, len(data))
    elif data[4:8] == b"ftyp":
        yield from boxes(data, 0, len(data))
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        yield from elements(data, 0, len(data))
    elif data[:1] == b"G" and len(data) % 188 == 0:
        yield from (Chunk(at, at + 188) for at in range(0, len(data), 188))
    else:
        yield from between(data, {b"PK": b"PK", b"Og": b"OggS"}.get(data[:2], b"\0\0\1"))


def riff(data: bytes, at: int, end: int) -> Iterator[Chunk]:
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        stop = min(at + 8 + size + size % 2, end)
        yield Chunk(at, stop, at + 4, 4)
        if data[at : at + 4] in (b"RIFF", b"LIST"):
            yield from riff(data, at + 12, stop)
        at = stop


def boxes(data: bytes, at: int, end: int) -> Iterator[Chunk]:
    while at + 8 <= end:
        stop = min(at + max(int.from_bytes(data[at : at + 4], "big"), 8), end)
        yield Chunk(at, stop, at, 4, "big")
        if data[at + 4 : at + 8] in BOXES:
            yield from boxes(data, at + 8, stop)
        at = stop


def elements(data: bytes, at: int, end: int) -> Iterator[Chunk]:
    while at + 2 <= end and data[at]:
        size_at = at + 9 - data[at].bit_length()
        if size_at >= end or not data[size_at]:
            return
        width = 9 - data[size_at].bit_length()
        size = int.from_bytes(data[size_at : size_at + width], "big") & (1 << 7 * width) - 1
        stop = min(size_at + width + size, end)
        yield Chunk(at, stop, size_at, width, "big")
        if int.from_bytes(data[at:size_at], "big") in MASTERS:
            yield from elements(data, size_at + width, stop)
        at = stop


def between(data: bytes, mark: bytes) -> Iterator[Chunk]:
    places = [match.start() for match in re.finditer(re.escape(mark), data)]
    return (Chunk(start, end) for start, end in zip(places, [*places[1:], len(data)], strict=False))
