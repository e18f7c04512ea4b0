"""CPU time of the survey that `fetch` makes of a clip, against one plain decoding in order, in the same process.

    $ python benchmarks/fetching.py
    $ python benchmarks/fetching.py FOLDER         also --clips videos of a folder, evenly spaced

Makes 1080p clips of ten seconds at 25 fps: H.264 with closed and open GOPs, HEVC and VP9, at a camera's bit rates. They
show a moving pattern with a sensor's noise. The survey and plain decoding take turns, --rounds times. Prints a Markdown
table of CPU seconds, because other work on the machine disturbs them less than wall time: medians ± half the
interquartile range. *decodings* divides the survey's seconds by those of plain decoding in the same round. Encoding
takes minutes.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import av
import numpy as np
from tqdm import tqdm

from framebudget.console import usage
from framebudget.fetch import survey
from framebudget.sources.folder import VIDEOS
from framebudget.video.container import open_video

WIDTH, HEIGHT, FRAMES = 1920, 1080, 250
KINDS = {  # file name: codec and its options
    "H.264.mp4": ("libx264", {"b": "16M", "preset": "veryfast", "x264-params": "keyint=50:bframes=3:open-gop=0"}),
    "H.264, open GOP.mkv": (
        "libx264",
        {"b": "16M", "preset": "veryfast", "x264-params": "keyint=50:bframes=2:open-gop=1"},
    ),
    "HEVC.mp4": (
        "libx265",
        {"b": "12M", "preset": "ultrafast", "x265-params": "keyint=50:bframes=3:open-gop=1:log-level=0"},
    ),
    "VP9.webm": ("libvpx-vp9", {"g": "50", "b": "12M", "deadline": "realtime", "cpu-used": "8"}),
}


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| clip | MB | plain decoding, s | survey, s | decodings |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (codec, options) in KINDS.items():
            encode(Path(folder) / name, codec, options)
            row(name.rpartition(".")[0], [Path(folder) / name], arguments.rounds)
    if arguments.folder:
        files = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in VIDEOS)
        files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, arguments.clips).astype(int))]
        row(f"{len(files)} of {arguments.folder.name}", files, arguments.rounds)


def encode(path: Path, codec: str, options: dict[str, str]) -> None:
    """A pattern that moves past the camera, an object that moves before it, and a sensor's noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(40, 216, (HEIGHT // 8 + 70, WIDTH // 8 + 100, 3), np.uint8)
    scene = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)
    noise = generator.integers(-12, 13, (HEIGHT + 50, WIDTH + 50, 3)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in tqdm(range(FRAMES), desc=f"encode {path.name}", unit="frame", disable=None):
            picture = scene[2 * i : 2 * i + HEIGHT, 3 * i : 3 * i + WIDTH].copy()
            y, x = round(400 + 300 * np.sin(i / 20)), round(900 + 600 * np.cos(i / 17))
            picture[y : y + 200, x : x + 200] = scene[:200, :200]
            dy, dx = generator.integers(0, 50, 2)
            noisy = np.clip(picture + noise[dy : dy + HEIGHT, dx : dx + WIDTH], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode())


def plain_decoding(path: Path) -> None:
    with open_video(path) as video:
        for _ in video.frames():
            pass


def row(name: str, files: list[Path], rounds: int) -> None:
    """Print a row of the table: all files together."""
    plain, surveyed = [], []
    for _ in range(rounds):
        plain.append(seconds(plain_decoding, files))
        surveyed.append(seconds(survey, files))
    ratios = np.divide(surveyed, plain)
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"| {name} | {size:.1f} | {spread(plain)} | {spread(surveyed)} | {spread(ratios)} |", flush=True)


def seconds(work: Callable[[Path], object], files: list[Path]) -> float:
    start = time.process_time()
    for path in files:
        work(path)
    return time.process_time() - start


def spread(values: list[float] | np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.2f} ± {(high - low) / 2:.2f}"


if __name__ == "__main__":
    main()
