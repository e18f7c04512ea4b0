"""Predict the classes of any video, as a whole and over time, with a trained network."""

import argparse
import contextlib
import itertools
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from framebudget.commands.serving import load, middle_logits
from framebudget.console import UserError, as_csv, listed, redacted
from framebudget.models import NETWORKS
from framebudget.models.replay import Replay
from framebudget.params import Input
from framebudget.sources.folder import VIDEOS, printable, reason_to_skip, walk
from framebudget.study import trained
from framebudget.video import sampling
from framebudget.video.container import ClipError
from framebudget.video.reader import glance, probe, stream_frames
from framebudget.video.timeline import at

VIEWS = 3  # windows per video without --window
BATCH = 8  # windows per forward pass


class Batch(NamedTuple):
    """Up to BATCH windows of a video. times: start and end in seconds. left: how many windows follow."""

    video: Path
    times: list[tuple[float, float]]
    frames_NTHWC: np.ndarray
    left: int


class Prediction(NamedTuple):
    """times: (N, 2), start and end of each window in seconds."""

    video: Path
    times: np.ndarray
    logits_NK: torch.Tensor


def run(arguments: argparse.Namespace) -> int:
    """Run `framebudget predict`. Returns the exit status: 1 if a video could not be read."""
    streamed, windowed = arguments.videos == ["-"], bool(arguments.window)
    if streamed:  # one list per line: answer each video before the next is named
        sys.stdin.reconfigure(errors="surrogateescape")  # the way Python decodes file names
        lists = ([Path(line.rstrip("\n"))] for line in sys.stdin if line.strip())
    else:
        lists = [videos_of(arguments.videos)]
    named = streamed or len(lists[0]) > 1
    if arguments.timeline and (named or not windowed):
        raise UserError("--timeline works only for one video, with --window")
    if arguments.timeline:  # hours of prediction come before the plot
        from framebudget.report import over_time, plots  # takes seconds, and only the timeline needs it

        plots.format_of(arguments.timeline)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with weight_file(arguments.model, arguments.frames) as file:
        network, checkpoint = load(file, device)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # like other commands, end quietly when `| head` has read enough
    replay, failed, done, began = Replay(network), 0, [], time.monotonic()
    for videos in lists:
        for prediction in predict(videos, replay, checkpoint, arguments.window, arguments.step):
            if isinstance(prediction, ClipError):
                tqdm.write(f"error: {printable(str(prediction))}", file=sys.stderr)
                failed = 1
                continue
            if arguments.csv:
                tqdm.write(as_csv(rows_of(prediction, checkpoint, windowed), header=not done), end="")
            else:
                content = content_of(prediction, checkpoint, arguments.top, windowed)
                tqdm.write(json.dumps(content, ensure_ascii=False) if arguments.json else as_text(content, named))
            sys.stdout.flush()
            done.append(len(prediction.times))
            if arguments.timeline:
                probabilities_NK = prediction.logits_NK.softmax(1).numpy()
                figure = over_time.timeline(prediction.times, probabilities_NK, checkpoint["classes"])
                plots.write(figure, arguments.timeline)
    if done:
        took, frames = time.monotonic() - began, sum(done) * checkpoint["frames"]
        print(f"{frames} frames in {took:.1f} s: {frames / took:.0f} frames per second", file=sys.stderr)
    return failed


@contextlib.contextmanager
def weight_file(model: str, budget: int | None = None) -> Iterator[Path]:
    """The weight file for `--model` (a network in work/, a file, or an MLflow model, which is downloaded for the block)
    and `--frames`.

    A network in work/ has several: takes the first seed and fold, and by default the largest budget. Raises UserError.
    """
    if model in NETWORKS:
        files = trained(Path("work", model))
        budgets = sorted({key[0] for key in files})
        wanted = budget or max(budgets, default=None)
        if wanted not in budgets:
            if not budgets:
                raise UserError(f"work/{model}: no weights; name another network (--model), or train it: dvc repro")
            way_out = f"take one of these, or train it: dvc exp run -S frames={budget}"
            raise UserError(
                f"work/{model}: no weights for {budget} frames, only for {listed(map(str, budgets))}; {way_out}"
            )
        yield next(path for key, path in files.items() if key[0] == wanted)
        return
    registered = model.startswith(("models:/", "runs:/"))
    if not registered and not Path(model).is_file():
        raise UserError(f"--model {model}: not a network ({', '.join(NETWORKS)}), a weight file or models:/… of MLflow")
    if budget:
        raise UserError(f"--frames: {model} was trained at one budget; leave the option out")
    with tempfile.TemporaryDirectory() as folder:
        yield registered_weights(model, folder) if registered else Path(model)


def registered_weights(uri: str, folder: str) -> Path:
    """Download the weights of a model such as models:/framebudget-x3d_m@best-motion. Raises UserError."""
    from mlflow.artifacts import download_artifacts

    from framebudget.learning.mlflow_store import REFUSALS, connect, tracking_uri

    connect()
    try:
        files = list(Path(download_artifacts(uri, dst_path=folder, tracking_uri=tracking_uri())).rglob("*.pt"))
    except (*REFUSALS, OSError) as error:
        raise UserError(f"--model {uri}: MLflow at {redacted(tracking_uri())} does not have it ({error})") from None
    if len(files) != 1:
        raise UserError(f"--model {uri}: not a model of this project")
    return files[0]


def videos_of(names: Iterable[str]) -> list[Path]:
    """Expand each folder to all videos in it, except hidden ones. Raises UserError for a folder without any."""
    videos = []
    for path in map(Path, names):
        found = [file for file, reason in walk(path, reason_to_skip) if not reason and file.is_file()]
        if path.is_dir() and not found:
            raise UserError(f"{path}: no video in this folder ({', '.join(sorted(VIDEOS))})")
        videos += found or [path]
    return videos


def predict(
    videos: Iterable[Path], replay: Replay, checkpoint: dict, window: float | None = None, step: float | None = None
) -> Iterator[Prediction | ClipError]:
    """Yield, for each video in order, its prediction or the reason it cannot be read. A thread reads ahead.

    window: seconds; takes a window of this length every `step` seconds (default: half a window) and one at the end.
    None: up to three windows as long as in training, spread evenly over the video.
    """
    device = next(replay.network.parameters()).device
    times, logits = [], []
    with tqdm(desc="predict", total=0, unit="window", delay=2, leave=False, disable=None) as bar:
        for batch in ahead(read(videos, checkpoint, window, step)):
            if isinstance(batch, ClipError):
                yield batch
            else:
                logits.append(middle_logits(replay, batch.frames_NTHWC, checkpoint["input"]["crop"], device).cpu())
                times += batch.times
                bar.total = bar.n + len(batch.times) + batch.left  # known so far
                bar.update(len(batch.times))
                if batch.left:
                    continue
                yield Prediction(batch.video, np.array(times), torch.cat(logits))
            times, logits = [], []


def ahead(items: Iterator) -> Iterator:
    """Yield the same items; a thread prepares the next one while the caller uses the current one."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def read(
    videos: Iterable[Path], checkpoint: dict, window: float | None = None, step: float | None = None
) -> Iterator[Batch | ClipError]:
    """The windows of each video, in order."""
    for video in videos:
        try:
            yield from batches(video, checkpoint, window, step)
        except ClipError as error:
            yield error


def batches(video: Path, checkpoint: dict, window: float | None, step: float | None) -> Iterator[Batch]:
    spec, T = Input(**checkpoint["input"]), checkpoint["frames"]
    if window:
        spec = spec.model_copy(update={"window": window, "sampling": "dynamic"})
    facts = glance(video) if window else probe(video)
    frames, fps = facts["frames"], facts["fps"]
    span = sampling.span(spec, frames, fps, T)
    last = max(frames - span, 0)
    starts = np.unique(sampling.spread(last + 1, VIEWS))
    if window:
        if round(window * fps) < T:
            has = f"a window of {window:g} s has {round(window * fps)} frames, but the network takes {T}"
            tqdm.write(f"{printable(str(video))}: {has}; using windows of {span / fps:.3g} s", file=sys.stderr)
        starts = np.unique([*np.arange(0, last, max(round((step or window / 2) * fps), 1)), last])
    try:
        rows = sampling.within(frames, starts[:, None] + sampling.positions(spec.sampling, span, T), spec.short)
    except ValueError as error:
        raise ClipError(f"{video}: {error}") from None
    pictures = stream_frames(video, at(facts["shown"], rows), spec.short_side)
    for first in range(0, len(rows), BATCH):
        frames_NTHWC = np.stack(list(itertools.islice(pictures, BATCH)))
        begins = starts[first : first + BATCH] / fps
        times = [(begin, min(begin + span / fps, frames / fps)) for begin in begins]
        yield Batch(video, times, frames_NTHWC, len(rows) - first - len(times))


def content_of(prediction: Prediction, checkpoint: dict, top: int, windowed: bool) -> dict:
    """The result to print: the best classes by mean logits and, if `windowed`, the best class of each window."""

    def best(logits_K: torch.Tensor, count: int = 1) -> list[dict]:
        pairs = zip(logits_K.softmax(0).tolist(), checkpoint["classes"], strict=True)
        pairs = sorted(pairs, key=lambda pair: -pair[0])[:count]
        return [{"class": name, "probability": round(probability, 6)} for probability, name in pairs]

    content = {"video": str(prediction.video), "model": checkpoint["model"], "frames": checkpoint["frames"]}
    content["classes"] = best(prediction.logits_NK.mean(0), top)
    if windowed:
        windows = zip(prediction.times.tolist(), prediction.logits_NK, strict=True)
        content["windows"] = [
            {"start": round(start, 3), "end": round(end, 3), **best(logits_K)[0]} for (start, end), logits_K in windows
        ]
    return content


def rows_of(prediction: Prediction, checkpoint: dict, windowed: bool) -> pd.DataFrame:
    """One row for the video or, if `windowed`, for each window: where it begins and ends in seconds, the best class and
    its probability, and the probability of every class."""
    times, logits_NK = prediction.times, prediction.logits_NK
    if not windowed:
        times, logits_NK = np.array([[times.min(), times.max()]]), logits_NK.mean(0, keepdim=True)
    p_NK, names = logits_NK.softmax(1).numpy(), checkpoint["classes"]
    facts = {"video": str(prediction.video), "start": times[:, 0], "end": times[:, 1]}
    best = {"class": [names[place] for place in p_NK.argmax(1)], "probability": p_NK.max(1)}
    return pd.DataFrame(facts | best | {f"p_{name}": p_N for name, p_N in zip(names, p_NK.T, strict=True)})


def as_text(content: dict, named: bool) -> str:
    lines = [printable(content["video"])] if named else []
    lines += [f"{row['probability']:6.1%}  {row['class']}" for row in content["classes"]]
    for row in content.get("windows", []):
        lines.append(f"{row['start']:8.2f} – {row['end']:.2f} s  {row['probability']:6.1%}  {row['class']}")
    return "\n".join(lines)
