"""Layers that replace PyTorchVideo's: same parameters, same keys, any number of frames.

The convolutions are the CPU's way. On a GPU, where gpu.py does not compute them, they are torch's own.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from fvcore.nn.distributed import differentiable_all_reduce as all_reduce
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.fusion import fuse_conv_bn_eval

from framebudget.models import gpu

POSITIONS = 512  # above this, convolving is faster


class GlobalMean(nn.Module):
    """Mean over (T, H, W), kept as (B, C, 1, 1, 1).

    Replaces an average pool with a fixed kernel, which raises below 16 (X3D-M) or 32 (SlowFast) frames and whose
    backward is not deterministic on CUDA (pytorch#72766).
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.mean((2, 3, 4), keepdim=True)


class SpatialMaxPool(nn.Module):
    """nn.MaxPool3d with kernel (1, 3, 3), stride (1, 2, 2), padding (0, 1, 1), as a 2-D pool on the frames as pictures.

    The backward of MaxPool3d is not deterministic on CUDA (pytorch#110698); that of MaxPool2d is.
    B is read from the shape, because len() would make it a constant of an exported network.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return to_clips(F.max_pool2d(to_pictures(x_BCTHW), 3, 2, 1), x_BCTHW.shape[0])


class DepthwiseConv3d(nn.Conv3d):
    """A depthwise 3×3×3 convolution, computed as three depthwise 2-D ones on the frames as pictures.

    Same parameters and result as nn.Conv3d, whose depthwise backward is the slowest part of an X3D step on CPUs.
    Without gradients, nn.Conv3d in channels last is faster there. Temporal stride and dilation are 1, and padding is 1
    everywhere, which is all that X3D uses. Give it channels_last_3d input.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if x_BCTHW.is_cuda or not torch.is_grad_enabled():
            return super().forward(x_BCTHW)
        if x_BCTHW.shape[3:] == (1, 1):  # the rest of the kernel meets only padding
            weight = self.weight[:, :, :, 1, 1]
            return F.conv1d(x_BCTHW.flatten(2), weight, self.bias, 1, 1, groups=self.groups)[..., None, None]
        x, padding = x_BCTHW, 1
        if min(x.shape[3:]) < 3:  # oneDNN's weight gradient is 70 times slower if the padding is wider than the rest
            x, padding = F.pad(x, (1, 1, 1, 1)), 0
        tensors, device = (x, self.weight, self.bias), x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            tensors = (tensor if tensor is None else tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors)
        return Depthwise.apply(*tensors, self.stride[1], padding)


class Depthwise(torch.autograd.Function):
    """The three convolutions, each shifted by one frame. The backward copies almost nothing."""

    @staticmethod
    def forward(ctx, x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x_BCTHW, weight)
        ctx.geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(weight)
        x = to_pictures(x_BCTHW)
        before, now, after = (
            to_clips(F.conv2d(x, weight[:, :, k], b, stride, padding, groups=len(weight)), len(x_BCTHW))
            for k, b in enumerate([None, bias, None])
        )
        now[:, :, 1:] += before[:, :, :-1]
        now[:, :, :-1] += after[:, :, 1:]
        return now

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BCTHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCTHW, weight = ctx.saved_tensors
        B = len(x_BCTHW)
        x, grad_BCTHW = to_pictures(x_BCTHW), grad_BCTHW.contiguous(memory_format=torch.channels_last_3d)

        def gradients(k: int, grad: Tensor, x: Tensor, of_x: bool, of_weight: bool) -> tuple[Tensor, Tensor]:
            mask = [of_x, of_weight, False]
            dx, dw, _ = torch.ops.aten.convolution_backward(grad, x, weight[:, :, k], None, *ctx.geometry, mask)
            return dx, dw

        before, now, after = (to_clips(gradients(k, to_pictures(grad_BCTHW), x, True, False)[0], B) for k in range(3))
        now[:, :, :-1] += before[:, :, 1:]
        now[:, :, 1:] += after[:, :, :-1]
        # shift all clips at once by one frame, where zeros keep a clip's gradient out of the next clip
        shifted = grad_BCTHW.clone()
        shifted[:, :, 0] = 0
        first = gradients(0, to_pictures(shifted)[1:], x[:-1], False, True)[1]
        middle = gradients(1, to_pictures(grad_BCTHW), x, False, True)[1]
        shifted[:, :, 0] = grad_BCTHW[:, :, 0]
        shifted[:, :, -1] = 0
        last = gradients(2, to_pictures(shifted)[:-1], x[1:], False, True)[1]
        bias = grad_BCTHW.sum((0, 2, 3, 4)) if ctx.needs_input_grad[2] else None
        return now, torch.stack([first, middle, last], 2), bias, None, None


class TemporalDepthwiseConv3d(nn.Conv3d):
    """A depthwise k×1×1 convolution, computed as a 2-D one over (T, H·W): X3D's stem. Strides and dilation are 1."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if x_BCTHW.is_cuda:
            return super().forward(x_BCTHW)
        y = F.conv2d(x_BCTHW.flatten(3), self.weight.flatten(3), self.bias, 1, self.padding[:2], groups=self.groups)
        return y.unflatten(3, x_BCTHW.shape[3:])


class NarrowConv3d(nn.Conv3d):
    """A convolution that is computed as one matrix product if it has few output positions or torch is slow at it.

    oneDNN's weight gradient is much slower on maps of a few pixels, where SlowFast has most of its weights. Without
    gradients, convolving is faster. Dilation is 1, which is all that the two networks use.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if x_BCTHW.is_cuda:
            return super().forward(x_BCTHW)
        geometry = list(zip(x_BCTHW.shape[2:], self.kernel_size, self.stride, self.padding, strict=True))
        out = [(size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in geometry]
        few = torch.is_grad_enabled() and len(x_BCTHW) * math.prod(out) <= POSITIONS
        if not (few or self.is_slow(x_BCTHW)):
            return self.convolved(x_BCTHW, geometry, out)
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

    def convolved(self, x_BCTHW: Tensor, geometry: list[tuple[int, int, int, int]], out: list[int]) -> Tensor:
        """The convolution; where a clip is narrower than the kernel, padded beforehand, without taps on padding alone.

        geometry: size, kernel, stride and padding of each dimension. On AVX512-BF16, oneDNN's weight gradient of such
        a convolution in bfloat16 reads uninitialized memory, and the output can be NaN (torch 2.15).
        """
        pads, taps, paddings = [], [], []
        for (size, kernel, stride, padding), length in zip(geometry, out, strict=True):
            if size >= kernel:
                before = after = 0
                taps.append(slice(None))
            else:
                first, last = max(0, padding - stride * (length - 1)), min(kernel, padding + size)
                before = padding - first
                after = stride * (length - 1) + last - first - size - before
                taps.append(slice(first, last))
            pads = [before, after, *pads]
            paddings.append(padding if size >= kernel else 0)
        x = F.pad(x_BCTHW, pads) if any(pads) else x_BCTHW
        return F.conv3d(x, self.weight[:, :, *taps], self.bias, self.stride, paddings)

    def is_slow(self, x_BCTHW: Tensor) -> bool:
        """Whether torch computes this 1×1×1 convolution without oneDNN, and copies it out of channels last and back.

        With one thread and fewer than 16 clips, torch does so (use_mkldnn in ATen/native/Convolution.cpp), and an X3D-M
        step takes twice as long. In bfloat16, torch always uses oneDNN.
        """
        if torch.get_num_threads() > 1 or torch.is_autocast_enabled("cpu") or torch.compiler.is_exporting():
            return False
        return self.kernel_size == self.stride == (1, 1, 1) and x_BCTHW.shape[0] < 16


class ClipDropout(nn.Dropout):
    """Dropout that draws each clip's mask from the clip's own seed, whatever batch, rank or run it is in.

    seeds: one for each clip of the next batch, set before every training step; None for torch's own dropout.
    """

    seeds: list[int] | None = None

    @torch.compiler.disable  # the seeds of a batch cannot be part of a graph
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.seeds is None:
            return super().forward(x)
        draws = [torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in self.seeds]
        return x * (torch.stack(draws) >= self.p).to(x) / (1 - self.p)


class RankedBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm with the statistics of the batch on all ranks, on any device (nn.SyncBatchNorm needs GPUs)."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not (self.training and distributed.is_initialized() and distributed.get_world_size() > 1):
            return super().forward(x_BCTHW)

        x = x_BCTHW.float()
        count = all_reduce(x.new_tensor(x.numel() / x.shape[1]))
        mean_C = all_reduce(x.sum((0, 2, 3, 4))) / count
        x = x - mean_C[:, None, None, None]
        variance_C = all_reduce(x.square().sum((0, 2, 3, 4))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * count / (count - 1), self.momentum)
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        return (x * scale_C[:, None, None, None] + self.bias[:, None, None, None]).to(x_BCTHW.dtype)


def faster(network: nn.Module) -> nn.Module:
    """Switch a network to the layers above, in place, and to channels last in memory. Raises ValueError for a
    convolution that no layer computes."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.groups > 1 and not depthwise(module):
            raise ValueError(f"{module}: of convolutions in groups, only depthwise 3×3×3 and k×1×1 are implemented")
        if isinstance(module, nn.Conv3d) and (module.dilation != (1, 1, 1) or module.padding_mode != "zeros"):
            raise ValueError(f"{module}: convolutions with dilation, or padding other than zeros, are not implemented")
        if type(module) in gpu.SWAPS and gpu.suits(module):
            module.__class__ = gpu.SWAPS[type(module)]
        elif isinstance(module, nn.Conv3d) and module.groups == 1:
            module.__class__ = NarrowConv3d
        elif isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            module.__class__ = DepthwiseConv3d
        elif isinstance(module, nn.Conv3d):
            module.__class__ = TemporalDepthwiseConv3d
        elif isinstance(module, nn.BatchNorm3d):
            module.__class__ = RankedBatchNorm3d
        elif isinstance(module, nn.Dropout):
            module.__class__ = ClipDropout
    return network.to(memory_format=torch.channels_last_3d)


def depthwise(conv: nn.Conv3d) -> bool:
    """Whether a convolution is depthwise, 3×3×3 or k×1×1, with "same" padding, and a stride for pixels alone."""
    kernel, (time, row, column) = conv.kernel_size, conv.stride
    fits = kernel == (3, 3, 3) or (kernel[1:] == (1, 1) and row == 1)
    same = conv.padding == tuple(k // 2 for k in kernel) and conv.dilation == (1, 1, 1)
    return conv.groups == conv.in_channels == conv.out_channels and fits and same and time == 1 and row == column


def for_evaluation(network: nn.Module) -> nn.Module:
    """On a CPU, multiply every BatchNorm into the convolution before it, and let activations overwrite their input.

    Works in place. A GPU already computes a norm and its activation in one kernel (gpu.py).
    """
    if next(network.parameters()).is_cuda:
        return network.eval()
    leaves = [(name, module) for name, module in network.eval().named_modules() if not any(module.children())]
    for (first, before), (second, module) in itertools.pairwise(leaves):
        if isinstance(before, nn.Conv3d) and isinstance(module, nn.BatchNorm3d):
            network.set_submodule(first, fuse_conv_bn_eval(before, module))
            network.set_submodule(second, nn.Identity())
        elif isinstance(module, (nn.ReLU, nn.SiLU)):
            module.inplace = True
    return network


def to_pictures(x_BCTHW: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B·T, C, H, W); a view if the memory format is channels_last_3d."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def to_clips(x_NCHW: Tensor, batch: int) -> Tensor:
    """(B·T, C, H, W) -> (B, C, T, H, W)."""
    return x_NCHW.unflatten(0, (batch, -1)).transpose(1, 2)
