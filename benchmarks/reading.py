"""Clips a second on one core: this project's reader against its peers, on the same files, in the same run.

    $ pip install torchcodec decord2 opencv-python-headless     torchcodec needs FFmpeg's libraries (apt install ffmpeg)
    $ python benchmarks/reading.py FOLDER                       <class>/<video>; --clips of them, evenly spaced

Prints a Markdown table: 16 frames spread over the whole clip, or over a window of 2 or 8 s, as arrays on the CPU. All
readers take turns, --rounds times; clips/s are medians ± half the interquartile range. *wrong* counts files with at
least one wrong frame, *errors* files that raised. framebudget uses the index that `fetch` builds; building it is not
timed, because it happens once for all epochs.
"""

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
warnings.filterwarnings("ignore")  # pytorchvideo warns at import and at each clip

import av
import cv2
import decord
import numpy as np
import torch
import torchcodec
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from torchvision.transforms import CenterCrop, Compose, Lambda, _functional_tensor
from tqdm import tqdm

from framebudget.console import usage
from framebudget.sources import motion
from framebudget.sources.folder import VIDEOS
from framebudget.sources.proof import build
from framebudget.video import sampling, transforms
from framebudget.video.reader import read_frames

# pytorchvideo.transforms imports a module that torchvision renamed in 0.17 (pytorchvideo#258, never fixed in a release)
sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor)
from pytorchvideo import transforms as theirs

T, SHORT_SIDE, CROP = 16, 256, 224
torch.set_num_threads(1)
cv2.setNumThreads(1)


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=26)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in VIDEOS)
    files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, arguments.clips).astype(int))]
    clips = [Clip(path) for path in tqdm(files, desc="decode", unit="clip", disable=None)]

    print(f"{arguments.folder.name}: {len(clips)} clips, {arguments.rounds} rounds, one core")
    table("the whole frame", clips, UNSCALED, arguments.rounds)
    table(f"short side {SHORT_SIDE}", clips, SCALED, arguments.rounds)
    for seconds in (2, 8):
        whole = {
            "framebudget": lambda clip, s=seconds: ours_to_the_network(clip, s),
            "LabeledVideoDataset": lambda clip, s=seconds: labeled_video_dataset(clip, s),
        }
        table(f"a window of {seconds} s, what the network needs: {CROP} px, float", clips, whole, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for name, codec in LONG.items():
            table(
                f"the last second of 60, {codec} in {name}",
                [long_clip(Path(folder) / name, codec)],
                LATE,
                arguments.rounds,
            )


class Clip:
    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        with av.open(self.name) as container:
            stream = container.streams.video[0]
            self.fps = float(stream.average_rate)
            self.truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        self.indices = sampling.spread(len(self.truth), T).tolist()
        self.index = build(path)
        self.height, self.width = (
            round(n * SHORT_SIDE / min(self.truth[0].shape[:2])) for n in self.truth[0].shape[:2]
        )

    def wrong(self, frames: np.ndarray) -> bool:
        """Whether any frame is closer to a neighbor of the requested frame than to the requested frame."""
        for index, frame in zip(self.indices, frames, strict=True):
            near = range(max(index - 4, 0), min(index + 5, len(self.truth)))
            distance = {i: np.abs(self.truth[i].astype(np.int16) - frame).mean() for i in near}
            if min(distance.values()) < 0.5 * distance[index]:
                return True
        return False


def ours(clip: Clip) -> np.ndarray:
    return read_frames(clip.path, clip.indices, index=clip.index)


def ours_from_the_start(clip: Clip) -> np.ndarray:
    return read_frames(clip.path, clip.indices)


def torchcodec_reader(mode: str):
    def read(clip: Clip) -> np.ndarray:
        decoder = torchcodec.decoders.VideoDecoder(
            clip.name, seek_mode=mode, num_ffmpeg_threads=1, dimension_order="NHWC"
        )
        return decoder.get_frames_at(clip.indices).data.numpy()

    return read


def decord_reader(clip: Clip) -> np.ndarray:
    return decord.VideoReader(clip.name, num_threads=1).get_batch(clip.indices).asnumpy()


def opencv(clip: Clip, size: tuple[int, int] | None = None) -> np.ndarray:
    capture, wanted, found = cv2.VideoCapture(clip.name), set(clip.indices), {}
    for position in range(clip.indices[-1] + 1):
        if not capture.grab():
            raise EOFError(clip.name)
        if position in wanted:
            frame = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
            found[position] = cv2.resize(frame, size) if size else frame
    return np.stack([found[i] for i in clip.indices])


def decoding_alone(clip: Clip) -> None:
    """Decode every frame up to the last one requested, without converting any."""
    with av.open(clip.name) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for _ in zip(range(clip.indices[-1] + 1), container.decode(stream), strict=False):
            pass


def ours_scaled(clip: Clip) -> np.ndarray:
    return read_frames(clip.path, clip.indices, SHORT_SIDE, clip.index)


def torchcodec_scaled(clip: Clip) -> np.ndarray:
    resize = torchcodec.transforms.Resize((clip.height, clip.width))
    decoder = torchcodec.decoders.VideoDecoder(
        clip.name, seek_mode="approximate", num_ffmpeg_threads=1, dimension_order="NHWC", transforms=[resize]
    )
    return decoder.get_frames_at(clip.indices).data.numpy()


def decord_scaled(clip: Clip) -> np.ndarray:
    reader = decord.VideoReader(clip.name, num_threads=1, width=clip.width, height=clip.height)
    return reader.get_batch(clip.indices).asnumpy()


def opencv_scaled(clip: Clip) -> np.ndarray:
    return opencv(clip, (clip.width, clip.height))


def ours_to_the_network(clip: Clip, seconds: float) -> torch.Tensor:
    span = max(min(round(seconds * clip.fps), len(clip.truth)), T)
    (indices,) = sampling.views(len(clip.truth), T, span, 1, "error")
    frames_THWC = read_frames(clip.path, indices, SHORT_SIDE, clip.index)
    view = transforms.even_view(*frames_THWC.shape[1:3], CROP)
    return transforms.inputs(torch.from_numpy(frames_THWC)[None, None], [view], CROP)


TO_THE_NETWORK = theirs.ApplyTransformToKey(
    key="video",
    transform=Compose(
        [
            theirs.UniformTemporalSubsample(T),
            Lambda(lambda x: x / 255.0),
            theirs.Normalize((transforms.MEAN,) * 3, (transforms.STD,) * 3),
            theirs.ShortSideScale(SHORT_SIDE),
            CenterCrop(CROP),
        ]
    ),
)


def labeled_video_dataset(clip: Clip, seconds: float) -> torch.Tensor:
    data = LabeledVideoDataset(
        [(clip.name, {})], make_clip_sampler("random", seconds), transform=TO_THE_NETWORK, decode_audio=False
    )
    return next(iter(data))["video"]


UNSCALED = {
    "framebudget": ours,
    "framebudget, from the start": ours_from_the_start,
    "torchcodec exact": torchcodec_reader("exact"),
    "torchcodec approximate": torchcodec_reader("approximate"),
    "decord2": decord_reader,
    "OpenCV, in order": opencv,
    "(decoding alone)": decoding_alone,
}
SCALED = {
    "framebudget": ours_scaled,
    "torchcodec approximate": torchcodec_scaled,
    "decord2": decord_scaled,
    "OpenCV, in order": opencv_scaled,
}


LATE = {"framebudget": ours, "framebudget, from the start": ours_from_the_start}
LONG = {"long.mp4": "libx264", "long.mkv": "libx264", "long.webm": "libvpx-vp9", "long.avi": "mpeg4"}


def long_clip(path: Path, codec: str) -> Clip:
    """60 s of a rendered scene at 25 fps, encoded with the codec's default settings; 16 frames of its last second."""
    frames = motion.render(motion.draw_scene(1), "Sway")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for i in range(1500):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[i % len(frames)], format="rgb24")))
        container.mux(stream.encode())
    clip = Clip(path)
    clip.indices = (sampling.spread(25, T) + 1475).tolist()
    return clip


def table(title: str, clips: list[Clip], readers: dict, rounds: int) -> None:
    """Print a Markdown table: medians of `rounds` rounds, in each of which every reader reads every clip."""
    seconds = {name: [] for name in readers}
    errors = {name: set() for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            start = time.perf_counter()
            for clip in clips:
                try:
                    read(clip)
                except Exception:
                    errors[name].add(clip.name)
            seconds[name].append(time.perf_counter() - start)
    print(f"\n| {title} | clips/s | framebudget is | wrong | errors |\n| --- | --- | --- | --- | --- |")
    first = np.median(seconds["framebudget"])
    for name, read in readers.items():
        low, middle, high = len(clips) / np.quantile(seconds[name], [0.75, 0.5, 0.25])
        ratio = f"{np.median(seconds[name]) / first:.2f} ×"
        wrong = ""
        if readers in (UNSCALED, LATE) and read is not decoding_alone:
            wrong = sum(clip.wrong(read(clip)) for clip in clips if clip.name not in errors[name])
        speed = f"{middle:.1f} ± {(high - low) / 2:.1f}"
        print(f"| {name} | {speed} | {ratio} | {wrong} | {len(errors[name])} |", flush=True)


if __name__ == "__main__":
    main()
