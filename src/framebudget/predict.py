"""The classes of any video, by a network that the study has trained."""

import re
from pathlib import Path

import torch

from framebudget import models
from framebudget.models import weights
from framebudget.models.layers import for_evaluation
from framebudget.models.views import logits_of
from framebudget.params import Input
from framebudget.video import sampling, transforms
from framebudget.video.reader import probe, read_frames

VIEWS = 3


def trained_weights(folder: Path, frames: int | None) -> Path:
    """The weight file of a budget (None: the largest), of the first seed and fold. Raises FileNotFoundError."""
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


@torch.inference_mode()
def best_classes(video: Path, file: Path) -> list[tuple[str, float]]:
    """(class, probability), most probable first, from windows placed evenly over the video. Raises ClipError."""
    checkpoint = weights.read(file)
    input = Input(**checkpoint["input"])
    network = models.BUILD[checkpoint["model"]](len(checkpoint["classes"]))
    weights.load(network, file)
    for_evaluation(network)
    facts = probe(video)
    span = input.span(facts["frames"], facts["fps"], checkpoint["frames"])
    indices_VT = sampling.views(facts["frames"], checkpoint["frames"], span, VIEWS, input.short)
    frames_NHWC = read_frames(video, indices_VT.ravel(), input.short_side)
    view = transforms.even_view(*frames_NHWC.shape[1:3], input.crop)
    frames_BVTHWC = torch.from_numpy(frames_NHWC).unflatten(0, indices_VT.shape)[None]
    clips_BVCTHW = transforms.inputs(frames_BVTHWC, [view], input.crop)
    probabilities = logits_of(network, clips_BVCTHW).mean(1).softmax(1)[0].tolist()
    return sorted(zip(checkpoint["classes"], probabilities, strict=True), key=lambda pair: -pair[1])
