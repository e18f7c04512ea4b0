"""The classes of any video, as a whole and over time, by a network that the study has trained."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from framebudget.console import redacted
from framebudget.models.trained import middle_logits
from framebudget.params import MODELS, Input
from framebudget.sources.folder import VIDEOS, printable
from framebudget.video import sampling
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
        if name := re.fullmatch(r"(\d+)f-s(\d+)(?:-k(\d+))?", path.stem):  # as runs.Run has it
            files[tuple(map(int, name.groups(default=0)))] = path
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
        raise ConnectionError(
            f"--model {uri}: not to be had from MLflow at {redacted(tracking_uri())} ({error})"
        ) from None
    if len(files) != 1:
        raise FileNotFoundError(f"--model {uri}: no model of this project")
    return files[0]


def videos_of(names: Iterable[str]) -> Iterator[Path]:
    """The files themselves, and all videos in folders. Raises FileNotFoundError."""
    for path in map(Path, names):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEOS and file.is_file())
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
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    times, logits, crop = [], [], checkpoint["input"]["crop"]
    with tqdm(desc="predict", total=0, unit="window", delay=2, leave=False, disable=None) as bar:
        for video, what, left in _ahead(_read(videos, checkpoint, window, step)):
            if not isinstance(what, ClipError):
                at, frames_NTHWC = what
                logits.append(middle_logits(network, frames_NTHWC, crop).cpu())
                times += at
                bar.total = bar.n + len(at) + left  # known so far
                bar.update(len(at))
                if left:
                    continue
                logits_NK = torch.cat(logits)
                what = Windows(
                    video, np.array(times), logits_NK.softmax(1).numpy(), logits_NK.mean(0).softmax(0).numpy()
                )
            times, logits = [], []
            yield what


def _read(
    videos: Iterable[Path], checkpoint: dict, window: float | None, step: float | None
) -> Iterator[tuple[Path, tuple[list, np.ndarray] | ClipError, int]]:
    """Of every video (seconds, frames_NTHWC) of up to BATCH windows at a time, or an error, and how many are left."""
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
                begins = starts[first : first + BATCH] / fps
                times = [(start, min(start + span / fps, frames / fps)) for start in begins]
                yield video, (times, frames_NTHWC), len(rows) - first - len(times)
        except ClipError as error:
            yield video, error, 0
        except ValueError as error:  # of sampling.within
            yield video, ClipError(f"{video}: {error}"), 0


def _ahead(items: Iterator) -> Iterator:
    """The same items, the next made in a thread while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def as_text(said: Windows, checkpoint: dict, top: int, *, named: bool, windows: bool) -> str:
    """The best classes, under the video's name if `named`; and the best class of each window."""
    lines = [printable(str(said.video))] if named else []
    lines += [f"{probability:6.1%}  {name}" for name, probability in best(said, checkpoint, top)]
    if windows:
        lines += [
            f"{start:8.2f} – {end:.2f} s  {probability:6.1%}  {name}"
            for start, end, name, probability in best_of_windows(said, checkpoint)
        ]
    return "\n".join(lines)


def as_json(said: Windows, checkpoint: dict, top: int, *, windows: bool) -> str:
    """The same as an object on one line."""
    answer = {
        "video": str(said.video),
        "model": checkpoint["model"],
        "frames": checkpoint["frames"],
        "classes": [{"class": name, "probability": round(value, 6)} for name, value in best(said, checkpoint, top)],
    }
    if windows:
        answer["windows"] = [
            {"start": round(start, 3), "end": round(end, 3), "class": name, "probability": round(probability, 6)}
            for start, end, name, probability in best_of_windows(said, checkpoint)
        ]
    return json.dumps(answer, ensure_ascii=False)


def best(said: Windows, checkpoint: dict, top: int) -> list[tuple[str, float]]:
    named = zip(checkpoint["classes"], said.probabilities_K.tolist(), strict=True)
    return sorted(named, key=lambda pair: -pair[1])[:top]


def best_of_windows(said: Windows, checkpoint: dict) -> Iterator[tuple[float, float, str, float]]:
    for (start, end), probabilities_K in zip(said.times.tolist(), said.probabilities_NK, strict=True):
        yield start, end, checkpoint["classes"][probabilities_K.argmax()], float(probabilities_K.max())
