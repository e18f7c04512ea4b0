"""What reading costs in memory: the peak of a process above its imports, each case in a process of its own.

    $ python benchmarks/memory.py

Renders a 1080p clip of 4 s and a clip of two hours (64×48, 25 fps) and prints a Markdown table. Takes some minutes,
nearly all of them for the index of two hours. Linux only.
"""

import multiprocessing
import os
import tempfile
from pathlib import Path

import av
import numpy as np
from processes import MIB, status
from tqdm import tqdm

from framebudget.console import usage
from framebudget.sources.proof import build
from framebudget.video.index import FrameIndex
from framebudget.video.reader import read_frames

TWO_HOURS = 2 * 3600 * 25  # frames


def main() -> None:
    usage(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sharp, long = Path(folder) / "sharp.mp4", Path(folder) / "long.mp4"
        encode(sharp, 1920, 1080, 100)
        encode(long, 64, 48, TWO_HOURS)
        late = range(TWO_HOURS - 50, TWO_HOURS - 34)
        print("| what | peak above the imports, MiB |\n| --- | --- |")
        index, peak = measured(build, sharp)
        print(f"| the index of 1080p | {peak:.0f} |", flush=True)
        for title, side in (("short side 256", 256), ("unscaled: the frames alone are 95", None)):
            _, peak = measured(read_frames, sharp, range(0, 96, 6), side, index)
            print(f"| 16 frames of 1080p, {title} | {peak:.0f} |", flush=True)
        index, peak = measured(build, long)
        print(f"| the index of two hours | {peak:.0f} |", flush=True)
        for title, known in (("late in two hours", index), ("the same from the start", None)):
            _, peak = measured(read_frames, long, late, None, known)
            print(f"| 16 frames {title} | {peak:.0f} |", flush=True)


def encode(path: Path, width: int, height: int, frames: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in tqdm(range(frames), desc=f"encode {path.name}", unit="frame", disable=None):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise[i % 8], format="rgb24")))
        container.mux(stream.encode())


def measured(work, *arguments) -> tuple[FrameIndex | None, float]:
    """What `work` returned, if it is a FrameIndex, and the peak of its process in MiB above what it began with."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work, arguments))


def _measured(work, arguments) -> tuple[FrameIndex | None, float]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: ru_maxrss would hold the parent's
    before = status(os.getpid(), "VmHWM")
    result = work(*arguments)
    return (result if isinstance(result, FrameIndex) else None), (status(os.getpid(), "VmHWM") - before) / MIB


if __name__ == "__main__":
    main()
