"""Where a network looks in each frame of a clip: HiResCAM (Draelos and Carin 2020, arXiv:2011.08891)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 7  # pixels on the shorter side of a map: the last stage of both networks at 224 px


@torch.enable_grad()
def attention(network: nn.Module, clips_BCTHW: Tensor, targets_B: Tensor) -> Tensor:
    """maps_BTHW in [0, 1]: how much each place of each frame contributes to the logit of the clip's target class.

    A map is the output of one stage times the gradient of the target's logit, summed over channels, without negative
    values, and divided by the maximum over the clip (all zero if nothing supports the class). The stage is the last one
    whose output has at least 7 pixels on its shorter side: at 224 px the last of all, as is customary, and at 32 px the
    first after the stem, because X3D ends in a single pixel there. If no stage has 7 pixels, it is the largest.

    SlowFast's map is the sum of those of its pathways: only the fast one tells the frames apart, and the slow one has
    most of the channels. They are taken before the lateral connection, so that its channels count once, at their frame.

    Where only a mean and a linear layer follow, as behind SlowFast's last stage, the products add up to the logit
    without its bias; elsewhere they are a first-order approximation. They do not explain why the network decides so, or
    what it would say if a place looked different. Maps can look convincing whatever was learned (Adebayo et al. 2018,
    arXiv:1810.03292): compare them with those of an untrained network. Brightness is not comparable between clips.

    The network is put in eval mode. It must not have passed `for_evaluation`, whose activations overwrite their input:
    X3D has no gradients then, and torch raises RuntimeError.
    """
    stages: list[list[Tensor]] = []
    hooks = []
    for stage in network.eval().blocks[:-1]:  # the last one is the head
        stages.append([])
        for pathway in getattr(stage, "multipathway_blocks", [stage]):
            hooks.append(pathway.register_forward_hook(lambda _, args, output, maps=stages[-1]: maps.append(output)))
    try:
        logits_BK = network(clips_BCTHW.detach().requires_grad_())  # gradients, even if the weights are frozen
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
    """The map at another (T, H, W), trilinear; a frame that becomes several shares its values among them."""
    t, h, w = map_B1THW.shape[2:]
    # the slow pathway takes the first and the last frame, so these keep their place; pixels are areas
    map_B1THW = F.interpolate(map_B1THW, (size[0], h, w), mode="trilinear", align_corners=True)
    return F.interpolate(map_B1THW, size, mode="trilinear") * (t / size[0])
