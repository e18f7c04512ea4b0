"""Where a network looks, over time: HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) of a clip."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 7  # pixels on the shorter side of a map: what both networks end in at 224 px


@torch.enable_grad()
def attention(network: nn.Module, clips_BCTHW: Tensor, targets_B: Tensor) -> Tensor:
    """maps_BTHW in [0, 1]: how much each place of each frame speaks for the clip's target class.

    The network is put in eval mode, and is not one that went through `for_evaluation`: activations that overwrite
    their input leave X3D without gradients, and torch raises RuntimeError.

    What a stage makes of a clip, times the gradient of the target's logit, summed over channels; what speaks against
    the class is cut off, and each clip is scaled by its own maximum (all zero if nothing speaks for the class). The
    stage is the last whose map has 7 pixels on its shorter side, which at 224 px is the last of all, as is customary,
    and at 32 px the first after the stem, for there X3D ends in a single pixel; if none has, the largest.

    Of SlowFast, the maps of both pathways are added, each as its share of the logit: the fast one alone tells the
    frames apart, the slow one has most of the channels. They are taken before the fast pathway flows into the slow one,
    and so what does is counted once, and at the frame it came from.

    What it tells: where only a mean and a linear layer follow, as behind SlowFast's last stage, the products add up to
    the logit but for its bias. Elsewhere they are a first-order account of it, at an early stage of edges and flicker
    as much as of things. What it does not tell: why the network decides so, or what it would say if a place looked
    different. Maps can look convincing whatever was learned (Adebayo et al. 2018, arXiv:1810.03292): look at those of
    an untrained network before believing one. And bright in one clip is not as much as bright in another.
    """
    stages: list[list[Tensor]] = []
    hooks = []
    for stage in network.eval().blocks[:-1]:  # the last one is the head
        stages.append([])
        for pathway in getattr(stage, "multipathway_blocks", [stage]):
            hooks.append(pathway.register_forward_hook(lambda _, args, output, maps=stages[-1]: maps.append(output)))
    try:
        logits_BK = network(clips_BCTHW.detach().requires_grad_())  # so that frozen weights have gradients behind them
    finally:
        for hook in hooks:
            hook.remove()

    pathways = max(reversed(stages), key=lambda maps: min(*maps[0].shape[3:], SMALLEST))
    gradients = torch.autograd.grad(logits_BK, pathways, F.one_hot(targets_B, logits_BK.shape[1]).to(logits_BK))
    shares = [(x * gradient).sum(1, keepdim=True) for x, gradient in zip(pathways, gradients, strict=True)]
    maps_BTHW = sum(upsampled(share, clips_BCTHW.shape[2:]) for share in shares).squeeze(1).relu().detach()
    peaks_B = maps_BTHW.amax((1, 2, 3), keepdim=True)
    return maps_BTHW / peaks_B.where(peaks_B > 0, 1)


def upsampled(map_B1THW: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The map at another (T, H, W), trilinear; what one frame says is shared among those that it becomes."""
    t, h, w = map_B1THW.shape[2:]
    # in time, the first and the last frame keep their place, as the slow pathway takes them; pixels are areas
    map_B1THW = F.interpolate(map_B1THW, (size[0], h, w), mode="trilinear", align_corners=True)
    return F.interpolate(map_B1THW, size, mode="trilinear") * (t / size[0])
