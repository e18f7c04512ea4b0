"""Open a clip: its packets and frames from PyAV, and frames as RGB pictures.

Decoding and scaling use one thread: a loader has several workers, PyAV's threads can deadlock when a reader stops
early, and starting threads takes longer than scaling a small frame.
"""

import contextlib
import errno
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from numpy.lib.stride_tricks import as_strided

from framebudget.console import UserError

MAX_PIXELS = 8192 * 4320  # of an 8K frame, because a small file can hold a frame that fills the memory
OPTIONS = {  # FFmpeg would also open playlists: lists of other files, local or remote, under any name
    "format_whitelist": "avi,mov,matroska,mpeg,mpegvideo,mpegts,asf,flv,ogg",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}
PICTURES = {b"GIF8": "GIF", b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


class ClipError(UserError):
    """A clip that cannot be read completely. The message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Video:
    """An open file and its video stream."""

    container: InputContainer
    stream: av.VideoStream

    @property
    def is_avi(self) -> bool:
        """Whether timestamps are numbers of packets: frames that are shown out of order then have wrong times."""
        return self.container.format.name == "avi"

    def packets(self, of_all: bool = False) -> Iterator[av.Packet]:
        """All packets of the video, or of_all streams, in file order, and an empty one at the end of each stream, which
        makes the decoder release its last frames."""
        packets = cast("Generator[av.Packet]", self.container.demux(() if of_all else self.stream))
        with contextlib.closing(packets):  # PyAV leaks memory if its generator is dropped halfway without being closed
            yield from packets

    def frames(self) -> Iterator[av.VideoFrame]:
        """All frames in display order."""
        for packet in self.packets():
            yield from self.stream.decode(packet)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a file. Raises ClipError if it has no video stream, or if decoding fails in the body of the `with`."""
    problem = "cannot be opened as a video"
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe may never end
            raise ClipError(f"{path}: a pipe or device, not a file")
        with av.open(f"file:{path}", options=OPTIONS, metadata_errors="replace") as container:
            problem = "broken while decoding"
            yield Video(container, _video_stream(path, container))
    except (av.FFmpegError, OSError, ValueError, IndexError, MemoryError) as error:  # IndexError: PyAV, some FLV files
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"  # a MemoryError has no message
        if kind := picture_format(path):
            reason = f"a {kind} file; convert it with ffmpeg"
        elif getattr(error, "errno", None) == errno.EINVAL:
            reason += f"; perhaps pictures of more than {MAX_PIXELS:,} pixels"
        raise ClipError(f"{path}: {problem} ({reason})") from None


def picture_format(path: Path) -> str | None:
    """The format of a file of pictures, animated or not, by its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return None
    if head[:4] == b"RIFF":
        return "WebP" if head[8:] == b"WEBP" else None
    return next((name for begin, name in PICTURES.items() if head.startswith(begin)), None)


def _video_stream(path: Path, container: InputContainer) -> av.VideoStream:
    if not container.streams.video:
        raise ClipError(f"{path}: no video stream in it")
    stream = container.streams.best("video")  # not the cover picture
    if not isinstance(stream, av.VideoStream) or not stream.codec_context:
        raise ClipError(f"{path}: FFmpeg has no decoder for its codec; convert the clip")
    if stream.width * stream.height > MAX_PIXELS:
        raise ClipError(f"{path}: {stream.width}×{stream.height}; no frame may have more than {MAX_PIXELS:,} pixels")
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # for frames larger than the header states
    stream.codec_context.flags |= Flags.copy_opaque  # a frame then carries the `opaque` of its packet
    stream.thread_type = "NONE"
    return stream


class Picture:
    """Turns a decoded frame into an upright RGB array (H, W, 3), scaled to `short_side` if given.

    Raises ValueError if a frame has another size than the first.
    """

    def __init__(self, short_side: int | None = None):
        self.short_side = short_side
        self.size: tuple[int, int] | None = None
        self.orientation: Orientation | None = None
        self.scale, self.convert = VideoReformatter(), VideoReformatter()  # creating one costs more than a frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = frame.width, frame.height
        self.size = self.size or (width, height)
        if self.size != (width, height):
            raise ValueError(f"frames of several sizes, {self.size} and {(width, height)}")
        if self.short_side:
            scale = self.short_side / min(width, height)
            width, height = round(width * scale), round(height * scale)
            if scale > 0.5 and frame.format.name.startswith("yuv"):  # three times faster, slightly less sharp in color
                frame = self.scale.reformat(frame, width, height, "yuv422p", interpolation="BILINEAR", threads=1)
        (plane,) = self.convert.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1).planes
        pixels = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]  # PyAV's stubs omit the buffer protocol
        frame_HWC = as_strided(pixels, (height, width, 3), (plane.line_size, 3, 1))  # a view: to_ndarray() copies
        self.orientation = self.orientation or orientation(frame)
        turned, mirrored, upside_down = self.orientation
        if turned:
            frame_HWC = frame_HWC.swapaxes(0, 1)
        return frame_HWC[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


class Orientation(NamedTuple):
    """How to set a picture upright: swap rows and columns, then reverse the columns, then the rows."""

    turned: bool = False
    mirrored: bool = False
    upside_down: bool = False


def orientation(frame: av.VideoFrame) -> Orientation:
    """As the frame's display matrix says (ISO 14496-12, 6.2.2), to the nearest right angle."""
    # PyAV keeps a frame that was asked for its side data until the next garbage collection: ask a small copy
    copy = VideoReformatter().reformat(frame, 2, 2, "gray8", interpolation="POINT", threads=1)
    matrix = cast("bytes | None", copy.side_data.get("DISPLAYMATRIX"))
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()  # a pixel (x, y) goes to (ax + cy, bx + dy)
    return Orientation(True, c < 0, b < 0) if abs(b) > abs(a) else Orientation(False, a < 0, d < 0)
