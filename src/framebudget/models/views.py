"""One network, several views of a clip."""

from torch import Tensor, nn

from framebudget.video.transforms import normalise


def logits_of(network: nn.Module, clips_BVTHWC: Tensor) -> Tensor:
    """uint8 clips -> logits_BVK."""
    logits_NK = network(normalise(clips_BVTHWC))
    return logits_NK.unflatten(0, clips_BVTHWC.shape[:2])
