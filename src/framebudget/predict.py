"""The classes of any video, as a whole and over time, by a network that the study has trained."""

import contextlib
import itertools
import queue
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from framebudget.models.views import logits_of
from framebudget.params import MODELS, Input
from framebudget.sources.folder import VIDEOS
from framebudget.video import sampling, transforms
from framebudget.video.reader import ClipError, glance, probe, stream_frames

VIEWS = 3  # of a video, where no window is asked for
BATCH = 8  # windows that the network sees at once


class Windows(NamedTuple):
    """What a network says about a video. times: seconds, (N, 2), from and to. probabilities_NK: of each window.
    probabilities_K: of the video, from the mean of all windows' logits."""

    video: Path
    times: np.ndarray
    probabilities_NK: np.ndarray
    probabilities_K: np.ndarray


def weight_file(model: str, frames: int | None = None) -> Path:
    """The weights that `--model` and `--frames` name: a network's in work/, a file, or what MLflow keeps.

    Of a network's in work/, the largest budget if none is named, the first seed and fold. Raises FileNotFoundError,
    ConnectionError if MLflow does not answer, and ValueError where `frames` cannot be chosen.
    """
    if model in MODELS:
        return trained_weights(Path("work") / model, frames)
    if frames:
        raise ValueError(f"--frames: {model} was trained at one budget already")
    if re.match(r"(models|runs):/", model):
        return registered_weights(model)
    if Path(model).is_file():
        return Path(model)
    raise FileNotFoundError(f"--model {model}: neither {' nor '.join(MODELS)}, nor a file, nor models:/… of MLflow")


def trained_weights(folder: Path, frames: int | None) -> Path:
    files = {}
    for path in folder.glob("*.pt"):
        T, *seed_and_fold = map(int, re.findall(r"\d+", path.stem))
        files[T, *seed_and_fold] = path
    T = frames or max((key[0] for key in files), default=None)
    found = [key for key in files if key[0] == T]
    if not found:
        there = f"trained budgets: {sorted({key[0] for key in files})}" if files else "train it first: dvc repro"
        raise FileNotFoundError(f"{folder}: no weights{f' for {frames} frames' if frames else ''}; {there}")
    return files[min(found)]


def registered_weights(uri: str) -> Path:
    """Brought from MLflow, such as models:/framebudget-x3d_m@best-motion."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from framebudget.params import tracking_uri

    try:
        files = list(Path(download_artifacts(uri, tracking_uri=tracking_uri())).rglob("*.pt"))
    except (MlflowException, OSError) as error:
        raise ConnectionError(f"--model {uri}: not to be had from MLflow at {tracking_uri()} ({error})") from None
    if len(files) != 1:
        raise FileNotFoundError(f"--model {uri}: no model of this project")
    return files[0]


def videos_of(names: Iterable[str]) -> Iterator[Path]:
    """The files themselves, and all videos in folders. Raises FileNotFoundError."""
    for path in map(Path, names):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEOS)
            if not found:
                raise FileNotFoundError(f"{path}: no video in this folder ({', '.join(sorted(VIDEOS))})")
            yield from found
        else:
            yield path


def predict(
    videos: Iterable[Path], network: nn.Module, checkpoint: dict, window: float | None = None, step: float | None = None
) -> Iterator[Windows | ClipError]:
    """What the network says about each video, in their order; or why it cannot be read.

    window: seconds; windows of this length are taken every `step` seconds (default: half a window) and at the end.
    None: three windows as long as in training, evenly over the video.
    Videos are read while the network is at work on what was read before.
    """
    times, logits = [], []
    for video, what in _ahead(_read(videos, checkpoint, window, step)):
        if isinstance(what, ClipError):
            yield what
        elif what:
            at, clips_NVCTHW = what
            times += at
            with torch.inference_mode():
                logits.append(logits_of(network, clips_NVCTHW)[:, 0])
            continue
        else:
            logits_NK = torch.cat(logits)
            probabilities_K = logits_NK.mean(0).softmax(0).numpy()
            yield Windows(video, np.array(times), logits_NK.softmax(1).numpy(), probabilities_K)
        times, logits = [], []


def _read(
    videos: Iterable[Path], checkpoint: dict, window: float | None, step: float | None
) -> Iterator[tuple[Path, tuple | ClipError | None]]:
    """Of every video (seconds, clips_NVCTHW) of up to BATCH windows at a time, then None; or an error at any time."""
    input, T = Input(**checkpoint["input"]), checkpoint["frames"]
    if window:
        input = input.model_copy(update={"window": window})
    for video in videos:
        try:
            facts = glance(video) if window else probe(video)
            frames, fps = facts["frames"], facts["fps"]
            span = input.span(frames, fps, T)
            if window:
                last = max(frames - span, 0)
                starts = np.unique([*np.arange(0, last, max(round((step or window / 2) * fps), 1)), last])
            else:
                starts = sampling.views(frames, T, span, VIEWS, "repeat_last")[:, 0]
            rows = sampling.within(frames, starts[:, None] + sampling.spread(span, T), input.short)
            taken = stream_frames(video, rows, input.short_side)
            for first in range(0, len(rows), BATCH):
                frames_NTHWC = np.stack(list(itertools.islice(taken, BATCH)))
                view = transforms.even_view(*frames_NTHWC.shape[2:4], input.crop)
                clips_NVCTHW = transforms.inputs(
                    torch.from_numpy(frames_NTHWC)[:, None], [view] * len(frames_NTHWC), input.crop
                )
                begins = starts[first : first + BATCH] / fps
                yield video, ([(start, min(start + span / fps, frames / fps)) for start in begins], clips_NVCTHW)
            yield video, None
        except ClipError as error:
            yield video, error
        except ValueError as error:  # of sampling.within
            yield video, ClipError(f"{video}: {error}")


def _ahead(items: Iterator, depth: int = 2) -> Iterator:
    """The same items, made in a thread, so many ahead."""
    made, end = queue.Queue(depth), object()
    gone = threading.Event()

    def put(item: object) -> None:
        while not gone.is_set():
            with contextlib.suppress(queue.Full):
                return made.put(item, timeout=0.1)

    def make() -> None:
        try:
            for item in items:
                put((item, None))
                if gone.is_set():
                    return
            put((end, None))
        except BaseException as error:  # to be raised where the items are taken
            put((end, error))

    threading.Thread(target=make, daemon=True).start()
    try:
        while True:
            item, error = made.get()
            if error:
                raise error
            if item is end:
                return
            yield item
    finally:
        gone.set()
