"""From uint8 frames to the input of a network: on the device, a whole batch at a time, each clip with its own View.

The reader scales frames in the same pass that converts them, so full-size frames are never moved.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MEAN, STD = 0.45, 0.225  # per channel, as in PyTorchVideo's Kinetics-400 training


class View(NamedTuple):
    """The part of a clip that a network sees, and how.

    corners: top and left of each of S squares.
    flip: mirrored.
    color: factors of brightness, contrast and saturation; None leaves the colors alone.
    seed: for whatever else is random about this clip in this epoch.
    """

    corners: list[tuple[int, int]]
    flip: bool = False
    color: tuple[float, ...] | None = None
    seed: int = 0


def random_view(H: int, W: int, crop: int, flip: bool, color_jitter: float, generator: np.random.Generator) -> View:
    """One square at a random place, mirrored half of the time if `flip`, each color factor within 1 ± color_jitter."""
    corner = int(generator.integers(H - crop + 1)), int(generator.integers(W - crop + 1))
    mirrored = flip and bool(generator.integers(2))
    color = tuple(generator.uniform(1 - color_jitter, 1 + color_jitter, 3)) if color_jitter else None
    return View([corner], mirrored, color, int(generator.integers(2**63)))


def even_view(H: int, W: int, crop: int, n: int = 1) -> View:
    """The square in the middle, or n squares spaced evenly from one end of the longer side to the other."""
    top, left = H - crop, W - crop  # the largest possible
    steps = [(k, n - 1) for k in range(n)] if n > 1 else [(1, 2)]
    return View([(top // 2, left * k // of) if W > H else (top * k // of, left // 2) for k, of in steps])


def inputs(frames_BVTHWC: Tensor, views: list[View], crop: int) -> Tensor:
    """uint8 frames -> normalized float32 clips (B, S·V, C, T, crop, crop), channels last in memory."""
    B, V, T, *_, C = frames_BVTHWC.shape
    S = len(views[0].corners)
    clips_BSVTHWC = torch.empty(B, S, V, T, crop, crop, C, device=frames_BVTHWC.device)
    for clip_SVTHWC, frames_VTHWC, view in zip(clips_BSVTHWC, frames_BVTHWC, views, strict=True):
        for square_VTHWC, (top, left) in zip(clip_SVTHWC, view.corners, strict=True):
            cut = frames_VTHWC[:, :, top : top + crop, left : left + crop]
            square_VTHWC.copy_(cut.flip(3) if view.flip else cut)
    clips_BSVTHWC.div_(255)
    for clip_SVTHWC, view in zip(clips_BSVTHWC, views, strict=True):
        if view.color:
            clip_SVTHWC.copy_(recolored(clip_SVTHWC.movedim(-1, -3), *view.color).movedim(-3, -1))
    return clips_BSVTHWC.sub_(MEAN).div_(STD).flatten(1, 2).movedim(-1, 2)


def recolored(clip: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Multiply the brightness, contrast and saturation of pictures in [0, 1], of shape (…, C, H, W)."""
    from torchvision.transforms.v2 import functional  # torchvision takes a second to import

    clip = functional.adjust_brightness(clip, brightness)
    clip = functional.adjust_contrast(clip, contrast)
    return functional.adjust_saturation(clip, saturation)
