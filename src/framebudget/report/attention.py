"""Where a network looks in each frame of a clip: HiResCAM (Draelos and Carin 2020, arXiv:2011.08891)."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 7  # pixels on the shorter side of a map: the last stage of both networks at 224 px


@torch.enable_grad()
def attention(network: nn.Module, clips_BCTHW: Tensor, targets_B: Tensor) -> Tensor:
    """maps_BTHW in [0, 1]: how much each place of each frame contributes to the logit of the clip's target class.

    A map is the output of one stage times the gradient of the target's logit, summed over channels, without negative
    values, and divided by its maximum over the clip. The stage is the last one whose output has at least 7 pixels on
    its shorter side, or the largest: X3D ends in a single pixel at 32 px. SlowFast's map is the sum of those of its
    pathways, before the lateral connection, so that each channel counts once.

    The products add up to the logit without its bias only where a mean and a linear layer follow, as behind SlowFast's
    last stage. Maps can look convincing whatever was learned (Adebayo et al. 2018, arXiv:1810.03292), and brightness is
    not comparable between clips. The network is put in eval mode, and must not have been through `for_evaluation`.
    """
    stages = [getattr(stage, "multipathway_blocks", [stage]) for stage in network.eval().blocks[:-1]]
    clips_BCTHW = clips_BCTHW.detach().requires_grad_()  # gradients, even if the weights are frozen
    logits_BK, maps = outputs(network, [pathway for stage in stages for pathway in stage], clips_BCTHW)
    stage = max(reversed(stages), key=lambda stage: min(*maps[stage[0]].shape[3:], SMALLEST))
    pathways = [maps[pathway] for pathway in stage]
    gradients = torch.autograd.grad(logits_BK, pathways, F.one_hot(targets_B, logits_BK.shape[1]).to(logits_BK))
    shares = [(x * gradient).sum(1, keepdim=True) for x, gradient in zip(pathways, gradients, strict=True)]
    maps_BTHW = sum(upsampled(share, clips_BCTHW.shape[2:]) for share in shares).squeeze(1).relu().detach()
    peaks_B = maps_BTHW.amax((1, 2, 3), keepdim=True)
    return maps_BTHW / peaks_B.where(peaks_B > 0, 1)


def outputs(network: nn.Module, modules: Iterable[nn.Module], clips_BCTHW: Tensor) -> tuple[Tensor, dict]:
    """logits_BK, and the output of each of these modules of the network."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [module.register_forward_hook(lambda of, _, output: found.update({of: output})) for module in modules]
    logits_BK = network(clips_BCTHW)
    for hook in hooks:
        hook.remove()
    return logits_BK, found


def upsampled(map_B1THW: Tensor, size: tuple[int, int, int]) -> Tensor:
    """The map at another (T, H, W), trilinear. A frame that becomes several shares its values among them."""
    t, h, w = map_B1THW.shape[2:]
    # the slow pathway takes the first and the last frame, so these keep their place; pixels are areas
    map_B1THW = F.interpolate(map_B1THW, (size[0], h, w), mode="trilinear", align_corners=True)
    return F.interpolate(map_B1THW, size, mode="trilinear") * (t / size[0])
