"""One network, several views of a clip."""

from collections.abc import Callable

import torch
from torch import Tensor


def logits_of(network: Callable[[Tensor], Tensor], clips_BVCTHW: Tensor) -> Tensor:
    """logits_BVK, computed with the views as part of the batch."""
    return network(clips_BVCTHW.flatten(0, 1)).unflatten(0, clips_BVCTHW.shape[:2])


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast that Lightning uses at this precision."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "32-true")
