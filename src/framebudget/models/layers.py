"""The layers in which the networks differ from PyTorchVideo's: same parameters, same keys, any number of frames."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIONS = 512  # from here on, convolving is faster


class GlobalMean(nn.Module):
    """Mean over (T, H, W), kept as (B, C, 1, 1, 1).

    In place of an average pool with a fixed kernel, which raises below 16 (X3D-M) or 32 (SlowFast) frames and whose
    backward is not deterministic on CUDA (pytorch#72766).
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.mean((2, 3, 4), keepdim=True)


class SpatialMaxPool(nn.Module):
    """nn.MaxPool3d with kernel (1, 3, 3), stride (1, 2, 2), padding (0, 1, 1), as a 2-D pool on T frames folded into B.

    The backward of MaxPool3d is not deterministic on CUDA (pytorch#110698); that of MaxPool2d is.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return unfold_frames(F.max_pool2d(fold_frames(x_BCTHW), 3, 2, 1), len(x_BCTHW))


class DepthwiseConv3d(nn.Conv3d):
    """A depthwise 3×3×3 convolution, computed as three depthwise 2-D ones on frames folded into the batch.

    Same parameters and result as nn.Conv3d, whose depthwise backward is the slowest part of an X3D step on CPUs
    (and, on GPUs, the reason why X3D trains slower than SlowFast: SlowFast#286). Temporal stride and dilation are 1,
    padding is 1 everywhere: all that X3D uses. Give it channels_last_3d input.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        B, C = x_BCTHW.shape[:2]
        x = fold_frames(x_BCTHW)
        padding = 1
        if min(x.shape[2:]) < 3:  # oneDNN's weight gradient is 70 times slower when the padding is wider than the rest
            x, padding = F.pad(x, (1, 1, 1, 1)), 0
        before, now, after = (
            unfold_frames(F.conv2d(x, self.weight[:, :, k], None, self.stride[1:], padding, groups=C), B)
            for k in range(3)
        )
        now[:, :, 1:] += before[:, :, :-1]
        now[:, :, :-1] += after[:, :, 1:]
        return now


class NarrowConv3d(nn.Conv3d):
    """A convolution that is computed as one matrix product where few positions come out of it.

    oneDNN's weight gradient is much slower than that on maps of a few pixels, where SlowFast has most of its weights.
    Dilation is 1: all that the two networks use.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        geometry = list(zip(x_BCTHW.shape[2:], self.kernel_size, self.stride, self.padding, strict=True))
        out = [(size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in geometry]
        if x_BCTHW.is_cuda or len(x_BCTHW) * math.prod(out) > POSITIONS:
            return super().forward(x_BCTHW)
        pads = [side for *_, padding in reversed(geometry) for side in (padding, padding)]
        x = x_BCTHW.permute(0, 2, 3, 4, 1)
        x = F.pad(x, [0, 0, *pads]) if any(pads) else x
        shifts = [
            [slice(k, k + stride * (length - 1) + 1, stride) for k in range(kernel)]
            for (_, kernel, stride, _), length in zip(geometry, out, strict=True)
        ]
        parts = [x[:, *place] for place in itertools.product(*shifts)]
        rows = (torch.cat(parts, -1) if len(parts) > 1 else parts[0]).flatten(0, 3)
        weight = self.weight.permute(0, 2, 3, 4, 1).flatten(1)  # a view in channels_last_3d
        y = F.linear(rows, weight, self.bias)
        return y.view(len(x), *out, -1).permute(0, 4, 1, 2, 3)


def faster(network: nn.Module) -> nn.Module:
    """Compute the convolutions of a network by the layers above, in place; channels last in memory."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.groups == 1:
            module.__class__ = NarrowConv3d
        elif isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            module.__class__ = DepthwiseConv3d
    return network.to(memory_format=torch.channels_last_3d)


def fold_frames(x_BCTHW: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B·T, C, H, W); a view if the memory format is channels_last_3d."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_frames(x_NCHW: Tensor, batch: int) -> Tensor:
    """(B·T, C, H, W) -> (B, C, T, H, W)."""
    return x_NCHW.unflatten(0, (batch, -1)).transpose(1, 2)
