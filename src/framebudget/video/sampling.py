"""Which frames of a clip a network sees: pure functions from lengths (and a generator) to indices.

A *span* of consecutive frames is chosen and T of them are taken evenly, its first and last among them, by the rule of
PyTorchVideo's uniform temporal subsampling. Training draws by one of four rules:

    dynamic     a span at a random place, another one every epoch
    static      the span in the middle, always the same
    segments    one random frame from each of T equal parts of the clip (Wang et al. 2016, arXiv:1608.00859)
    dense       a random place, every stride-th frame from there: dynamic, with the span that goes with the stride

Evaluation takes spans placed evenly. Where a span reaches beyond the clip, the policy for short clips decides, by
torchcodec's names: `repeat_last` repeats the clip's last frame, `wrap` goes on from its first, `error` raises.
"""

import numpy as np

from framebudget.params import Input


def span(spec: Input, frames: int, fps: float, T: int) -> int:
    """How many consecutive frames of a clip of this length and rate the T frames are spread over; at least T."""
    return spec.span(frames, fps, T)


def spread(span: int, T: int) -> np.ndarray:
    """(T,) positions evenly over 0 … span - 1, rounded down."""
    return np.arange(T) * (span - 1) // max(T - 1, 1)


def draw(rule: str, frames: int, T: int, span: int, generator: np.random.Generator, short: str) -> np.ndarray:
    """(T,) indices for training. Raises ValueError if the clip is too short and the policy is `error`."""
    if rule == "static":
        return views(frames, T, span, 1, short)[0]
    if rule == "segments":
        return segments(frames, T, generator, short)
    return dynamic(frames, T, span, generator, short)


def dynamic(frames: int, T: int, span: int, generator: np.random.Generator, short: str) -> np.ndarray:
    """(T,) indices from a span at a random place."""
    start = generator.integers(max(frames - span, 0) + 1)
    return within(frames, start + spread(span, T), short)


def segments(frames: int, T: int, generator: np.random.Generator, short: str) -> np.ndarray:
    """(T,) indices, one random frame from each of T parts of the clip that differ by at most one frame."""
    edges = np.arange(T + 1) * max(frames, T) // T
    return within(frames, generator.integers(edges[:-1], edges[1:]), short)


def views(frames: int, T: int, span: int, V: int, short: str) -> np.ndarray:
    """(V, T) indices from V spans, the first at the clip's start, the last at its end; a single one in the middle.

    (PyTorchVideo's `constant_clips_per_video` divides the room by V instead, and never sees the end.)
    """
    room = max(frames - span, 0)
    starts = spread(room + 1, V) if V > 1 else np.array([room // 2])
    return within(frames, starts[:, None] + spread(span, T), short)


def within(frames: int, indices: np.ndarray, short: str) -> np.ndarray:
    """The indices, those beyond the clip replaced as the policy says."""
    if short == "error" and indices.max() >= frames:
        raise ValueError(f"{frames} frames, but {indices.max() + 1} are needed")
    return indices % frames if short == "wrap" else np.minimum(indices, frames - 1)
