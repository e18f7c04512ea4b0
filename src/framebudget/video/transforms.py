"""From uint8 frames to what a network expects."""

import numpy as np
import torch
from torch import Tensor

MEAN, STD = 0.45, 0.225  # per channel, as in PyTorchVideo's Kinetics-400 training


def random_crop(frames_THWC: np.ndarray, crop: int, flip: bool, generator: np.random.Generator) -> np.ndarray:
    """A crop×crop square at a random place, the same for all frames; mirrored half of the time if `flip`."""
    H, W = frames_THWC.shape[1:3]
    top, left = generator.integers(H - crop + 1), generator.integers(W - crop + 1)
    square = frames_THWC[:, top : top + crop, left : left + crop]
    return square[:, :, ::-1] if flip and generator.integers(2) else square


def even_crops(frames_THWC: np.ndarray, crop: int, n: int = 1) -> list[np.ndarray]:
    """n crop×crop squares: the middle one, or several, evenly from one end of the longer side to the other."""
    rooms = np.array(frames_THWC.shape[1:3]) - crop
    longer = rooms.argmax()
    squares = []
    for k in range(n):
        corner = rooms // 2
        if n > 1:
            corner[longer] = rooms[longer] * k // (n - 1)
        top, left = corner
        squares.append(frames_THWC[:, top : top + crop, left : left + crop])
    return squares


def normalise(clips_BVTHWC: Tensor) -> Tensor:
    """uint8 (B, V, T, H, W, C) -> float32 (B·V, C, T, H, W), channels last in memory."""
    clips_NTHWC = clips_BVTHWC.flatten(0, 1).float().div_(255).sub_(MEAN).div_(STD)
    return clips_NTHWC.permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)
