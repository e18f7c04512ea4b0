"""Which frames of a clip a network sees: functions from lengths (and a random generator) to frame numbers.

A sampler chooses a *span* of consecutive frames and takes T of them evenly, the first and the last included, by the
rule of PyTorchVideo's uniform temporal subsampling. Of a single frame, that rule would take the first; here it is the
middle one. Training draws by one of four rules:

    dynamic     a span at a random place, a new one every epoch
    static      the span in the middle, always the same
    segments    one random frame from each of T equal parts of the clip (Wang et al. 2016, arXiv:1608.00859)
    dense       every stride-th frame from a random place: dynamic, with a span of that length

Evaluation spaces its spans evenly, and takes the middle of each part for `segments`. If a span is longer than the
clip, the policy for short clips decides, named as in torchcodec: `repeat_last` repeats the last frame, `wrap` starts
again at the first, `error` raises ValueError.
"""

import numpy as np

from framebudget.params import Input


def span(spec: Input, frames: int, fps: float, T: int) -> int:
    """How many consecutive frames, at least T, to spread T frames over, in a clip of this length and rate."""
    if spec.sampling == "dense":
        return (T - 1) * spec.stride + 1
    if spec.window is None or spec.sampling == "segments":
        return max(T, frames)
    return max(T, round(min(spec.window * fps, frames)))


def spread(span: int, T: int) -> np.ndarray:
    """(T,) positions spaced evenly over 0 … span - 1, rounded down. A single one is in the middle."""
    return np.arange(T) * (span - 1) // (T - 1) if T > 1 else np.array([span // 2])


def positions(rule: str, span: int, T: int) -> np.ndarray:
    """(T,) positions of evaluation's frames within a span."""
    return (2 * np.arange(T) + 1) * span // (2 * T) if rule == "segments" else spread(span, T)


def draw(rule: str, frames: int, T: int, span: int, generator: np.random.Generator, short: str) -> np.ndarray:
    """(T,) frame numbers for training."""
    if rule == "static":
        return views(rule, frames, T, span, 1, short)[0]
    if rule == "segments":
        edges = np.arange(T + 1) * max(frames, T) // T  # the lengths of the parts differ by at most one
        return within(frames, generator.integers(edges[:-1], edges[1:]), short)
    start = generator.integers(max(frames - span, 0) + 1)
    return within(frames, start + spread(span, T), short)


def views(rule: str, frames: int, T: int, span: int, V: int, short: str) -> np.ndarray:
    """(V, T) frame numbers: V spans, the first at the start of the clip, the last at its end; one alone in the middle.

    (PyTorchVideo's `constant_clips_per_video` divides the free space by V and never reaches the end.)
    """
    room = max(frames - span, 0)
    starts = spread(room + 1, V) if V > 1 else np.array([room // 2])
    return within(frames, starts[:, None] + positions(rule, span, T), short)


def within(frames: int, indices: np.ndarray, short: str) -> np.ndarray:
    """Apply the policy for short clips to frame numbers beyond the end. Raises ValueError if it is `error`."""
    if short == "error" and indices.max() >= frames:
        raise ValueError(f"{frames} frames, but {indices.max() + 1} are needed")
    return indices % frames if short == "wrap" else np.minimum(indices, frames - 1)
