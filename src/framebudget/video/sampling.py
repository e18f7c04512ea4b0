"""Which frames of a clip a network sees: pure functions from lengths (and a generator) to indices.

A window of the clip is chosen and T frames are taken evenly from it, its first and last frame among them, by the rule
of PyTorchVideo's uniform temporal subsampling. A window longer than the clip is the whole clip; where it has fewer
than T frames, frames repeat (the policy for short clips: an even sample with repetition, never padding with black).
"""

import numpy as np


def spread(window: int, T: int) -> np.ndarray:
    """(T,) positions evenly over 0 … window - 1, rounded down; repeats if window < T."""
    return np.arange(T) * (window - 1) // max(T - 1, 1)


def dynamic(frames: int, T: int, window: int, generator: np.random.Generator) -> np.ndarray:
    """(T,) indices from a window of this many frames at a random place."""
    window = min(window, frames)
    return generator.integers(frames - window + 1) + spread(window, T)


def views(frames: int, T: int, window: int, V: int) -> np.ndarray:
    """(V, T) indices from V windows placed evenly over the clip; a single one lies in the middle."""
    window = min(window, frames)
    starts = spread(frames - window + 1, V) if V > 1 else np.array([(frames - window) // 2])
    return starts[:, None] + spread(window, T)
