"""One network, several views of a clip."""

from torch import Tensor, nn


def logits_of(network: nn.Module, clips_BVCTHW: Tensor) -> Tensor:
    """logits_BVK, the views taken as a batch."""
    return network(clips_BVCTHW.flatten(0, 1)).unflatten(0, clips_BVCTHW.shape[:2])
