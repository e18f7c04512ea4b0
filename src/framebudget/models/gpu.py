"""How a CUDA device computes the networks: channels last, few launches, nothing stored twice.

Stock X3D-M spends its time in the backward of depthwise convolutions and of BatchNorm, and in launching kernels.
Here depthwise convolutions are Triton kernels (kernels/), and so is every BatchNorm with its activation, residual sum
and squeeze-and-excitation; pointwise convolutions are matrix products; replay.py replays steps as CUDA graphs.

Inner widths are padded with zeros to a multiple of 8 (54 -> 56), which tensor cores and 16-byte loads need.
"""

import os

import torch
import torch.nn.functional as F
from fvcore.nn.squeeze_excitation import SqueezeExcitation
from pytorchvideo.layers.convolutions import Conv2plus1d
from pytorchvideo.models.resnet import BottleneckBlock, ResBlock
from pytorchvideo.models.stem import ResNetBasicStem
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from framebudget.models.kernels import NONE, RELU, SILU

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking CUDA itself would break processes that are forked
if torch.cuda.is_available():  # elsewhere, Triton may be missing, and takes a second to import
    from framebudget.models.kernels import gate as gating
    from framebudget.models.kernels import norm as norms
    from framebudget.models.kernels.depthwise import depthwise, depthwise_gradients

ACTIVATIONS = {nn.ReLU: RELU, nn.SiLU: SILU, nn.Identity: NONE, type(None): NONE}
SPLIT = 256  # minimum rows per part in the weight gradient of a matrix product
TAKEN = torch.float32, torch.bfloat16, torch.float16


class Pointwise(torch.autograd.Function):
    """x_BTHWC · weight_OIᵀ. Its weight gradient sums hundreds of thousands of rows: within parts, then over parts."""

    @staticmethod
    def forward(ctx, x_BTHWC: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_BTHWC, weight_OI)
        return F.linear(x_BTHWC, weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTHWO: Tensor) -> tuple[Tensor | None, Tensor]:
        x_BTHWC, weight_OI = ctx.saved_tensors
        dx = grad_BTHWO @ weight_OI if ctx.needs_input_grad[0] else None
        B, T, H, W, _ = x_BTHWC.shape
        parts = B * T if H * W >= SPLIT else B
        grad, x = (tensor.reshape(parts, -1, tensor.shape[-1]) for tensor in (grad_BTHWO, x_BTHWC))
        return dx, torch.bmm(grad.transpose(1, 2), x).sum(0, dtype=torch.float32).to(weight_OI.dtype)


class Depthwise(torch.autograd.Function):
    """kernels/depthwise.py and its gradients."""

    @staticmethod
    def forward(ctx, x_BTHWC: Tensor, weight_KC: Tensor, kernel: tuple[int, int, int], stride: int) -> Tensor:
        ctx.save_for_backward(x_BTHWC, weight_KC)
        ctx.geometry = kernel, stride
        return depthwise(x_BTHWC, weight_KC, kernel, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTHWC: Tensor) -> tuple[Tensor | None, ...]:
        x_BTHWC, weight_KC = ctx.saved_tensors
        dx, dweight = depthwise_gradients(grad_BTHWC.contiguous(), x_BTHWC, weight_KC, *ctx.geometry)
        return dx, dweight.to(weight_KC.dtype), None, None


class NormAct(torch.autograd.Function):
    """act(BatchNorm(x) + residual) with the batch's own statistics. Updates the running ones."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, norm: nn.BatchNorm3d, act: int):
        ctx.act, ctx.count = act, x[..., 0].numel()
        scale, shift, mean, rstd = norms.normalization(
            norms.sums(x), ctx.count, weight, bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
        )
        y = norms.apply(x, scale, shift, residual, act)
        ctx.save_for_backward(x, weight, scale, shift, mean, rstd, y if residual is not None else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, shift, mean, rstd, y = ctx.saved_tensors
        dy = dy.contiguous()
        parts = norms.sums(x, dy, y, scale, shift, ctx.act)
        linear, constant, dweight, dbias = norms.normalization_gradient(parts, ctx.count, weight, mean, rstd)
        dx, dresidual = norms.apply_gradient(x, dy, y, scale, shift, linear, constant, ctx.act)
        return dx, dweight, dbias, dresidual, None, None


class GatedNormAct(torch.autograd.Function):
    """act(gate · BatchNorm(x)), the gate of each clip and channel from squeeze-and-excitation.

    Squeezing needs the clips' means after the norm, which follow from sums that the norm computes anyway.
    parameters: weight and bias of the norm, and of both layers of the gate.
    """

    @staticmethod
    def forward(ctx, x: Tensor, norm: nn.BatchNorm3d, act: int, *parameters: Tensor) -> Tensor:
        ctx.act, ctx.count = act, x[0, ..., 0].numel()
        weight, bias, *layers = parameters
        parts, running = norms.sums(x), (norm.running_mean, norm.running_var, norm.momentum, norm.eps)
        scale, shift, *statistics = norms.normalization(parts, ctx.count * len(x), weight, bias, *running)
        *saved, scale_BC, shift_BC = gating.gates(parts, ctx.count, scale, shift, layers)
        ctx.save_for_backward(x, scale_BC, shift_BC, *saved, weight, scale, shift, *statistics, *layers)
        return norms.apply(x, scale_BC, shift_BC, None, act)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, scale_BC, shift_BC, *others = ctx.saved_tensors
        saved, norm, layers = others[:3], others[3:8], others[8:]
        dy = dy.contiguous()
        parts = norms.sums(x, dy, None, scale_BC, shift_BC, ctx.act)
        linear_BC, constant_BC, *gradients = gating.gradients(parts, ctx.count, norm, layers, saved)
        dx, _ = norms.apply_gradient(x, dy, None, scale_BC, shift_BC, linear_BC, constant_BC, ctx.act)
        return dx, None, None, *gradients


def padded(tensor: Tensor, width: int) -> Tensor:
    """Pad the last dimension with zeros to this many channels."""
    return F.pad(tensor, (0, width - tensor.shape[-1])) if tensor.shape[-1] < width else tensor


def channels_last(x_BCTHW: Tensor) -> Tensor:
    """x_BTHWC, contiguous: a view of a tensor that is channels last."""
    return x_BCTHW.permute(0, 2, 3, 4, 1).contiguous()


def channels_first(x_BTHWC: Tensor) -> Tensor:
    """x_BCTHW, channels last in memory."""
    return x_BTHWC.permute(0, 4, 1, 2, 3)


def takes(x: Tensor) -> bool:
    """Whether this module computes such a tensor. Otherwise torch's own operators do, in which ranks can share
    statistics and which torch.compile can fuse."""
    ranks = distributed.is_initialized() and distributed.get_world_size() > 1
    return x.is_cuda and x.dtype in TAKEN and not ranks and not torch.compiler.is_compiling()


def frozen(module: nn.Module, x: Tensor) -> bool:
    """Whether gradients go through a norm with running statistics, for which there is no kernel."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *module.parameters()))
    return wanted and any(isinstance(part, nn.BatchNorm3d) and not part.training for part in module.modules())


def autocast_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def convolved(conv: nn.Conv3d, x_BTHWC: Tensor, width: int) -> Tensor:
    """A convolution, its output padded to `width` channels. The input may be padded already."""
    x = x_BTHWC.to(autocast_dtype(x_BTHWC))
    weight = conv.weight.to(x.dtype)
    kernel, stride, groups = conv.kernel_size, conv.stride, conv.groups
    if groups > 1:
        weight_KC = padded(conv.weight.flatten(1).t(), x.shape[-1]).contiguous()
        return Depthwise.apply(x, weight_KC, kernel, stride[1])
    if kernel == stride == (1, 1, 1):
        more_in, more_out = x.shape[-1] - conv.in_channels, width - conv.out_channels
        weight = weight.flatten(1)
        return Pointwise.apply(x, F.pad(weight, (0, more_in, 0, more_out)) if more_in or more_out else weight)
    if kernel[0] == stride[0] == 1:  # cuDNN has fast kernels for pictures, and slow ones for the same pictures as clips
        if conv.in_channels == 3 and kernel == (1, 3, 3):
            return patches_product(conv, x, weight)
        y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight[:, :, 0], None, stride[1:], conv.padding[1:])
        return y.permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:2])
    if conv.in_channels == 3 and stride[0] == 1:
        return frames_product(conv, x, weight)
    return channels_last(F.conv3d(channels_first(x), weight, None, stride, conv.padding))


def frames_product(conv: nn.Conv3d, x_BTHWC: Tensor, weight: Tensor) -> Tensor:
    """A k×7×7 stem as a convolution of pictures: channels of the input are the frames that 4 frames of the output see.

    cuDNN is slow with three channels, and slower with few in the output.
    """
    B, T = x_BTHWC.shape[:2]
    out, _, KT, _, _ = weight.shape
    x = F.pad(x_BTHWC, (0, 0, 0, 0, 0, 0, KT // 2, KT // 2 + -T % 4)).unfold(1, KT + 3, 4).flatten(-2)
    shifted = [F.pad(weight, (0, 0, 0, 0, n, 3 - n)) for n in range(4)]
    weight = torch.stack(shifted).flatten(0, 1).flatten(1, 2)
    y = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, None, conv.stride[1:], conv.padding[1:])
    y = y.permute(0, 2, 3, 1).unflatten(-1, (4, out)).unflatten(0, (B, -1)).transpose(3, 4).transpose(2, 3)
    return y.flatten(1, 2)[:, :T].contiguous()


def patches_product(conv: nn.Conv3d, x_BTHWC: Tensor, weight: Tensor) -> Tensor:
    """A stem as a matrix product of all patches of a picture: cuDNN is slow with three channels."""
    (_, KH, KW), (_, stride, _), (_, pad, _) = conv.kernel_size, conv.stride, conv.padding
    x = F.pad(x_BTHWC, (0, 0, pad, pad, pad, pad))
    H, W = x.shape[2] - KH + 1, x.shape[3] - KW + 1
    places = [x[:, :, h : h + H : stride, w : w + W : stride] for h in range(KH) for w in range(KW)]
    missing = -3 * KH * KW % 8
    patches = torch.cat([*places, places[0].new_zeros(()).expand(*places[0].shape[:-1], missing)], -1)
    return Pointwise.apply(patches, padded(weight[:, :, 0].permute(0, 2, 3, 1).flatten(1), patches.shape[-1]))


def normalized(norm: nn.Module, x: Tensor, act: nn.Module | None, residual: Tensor | None = None) -> Tensor:
    """act(norm(x) + residual), or gated by squeeze-and-excitation where norm is a sequence of both."""
    layers, kind = [], ACTIVATIONS[type(act)]
    if isinstance(norm, nn.Sequential):
        norm, gate = norm
        if not isinstance(gate, nn.Identity):
            layers = [gate.block[0].weight, gate.block[0].bias, gate.block[2].weight, gate.block[2].bias]
    if not norm.training:
        scale, shift = norms.of_running_statistics(norm, x.shape[-1])
        if layers:
            *_, scale, shift = gating.gates(norms.sums(x), x[0, ..., 0].numel(), scale, shift, layers)
        return norms.apply(x, scale, shift, residual, kind)
    norm.num_batches_tracked += 1
    if not layers:
        return NormAct.apply(x, norm.weight, norm.bias, residual, norm, kind)
    return GatedNormAct.apply(x, norm, kind, norm.weight, norm.bias, *layers)


class Bottleneck(BottleneckBlock):
    """Three convolutions, each with its norm. `Residual` applies the last norm, together with its sum."""

    def inner(self, x_BTHWC: Tensor) -> Tensor:
        width = self.conv_a.out_channels + (-self.conv_a.out_channels % 8 if self.conv_b.groups > 1 else 0)
        x = normalized(self.norm_a, convolved(self.conv_a, x_BTHWC, width), self.act_a)
        x = normalized(self.norm_b, convolved(self.conv_b, x, width), self.act_b)
        return convolved(self.conv_c, x, self.conv_c.out_channels)


class Residual(ResBlock):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not takes(x_BCTHW) or frozen(self, x_BCTHW):
            return super().forward(x_BCTHW)
        shortcut = x = channels_last(x_BCTHW)
        if self.branch1_conv is not None:
            shortcut = convolved(self.branch1_conv, x, self.branch1_conv.out_channels)
            if self.branch1_norm is not None:
                shortcut = normalized(self.branch1_norm, shortcut, None)
        inner = self.branch2.inner(x)
        return channels_first(normalized(self.branch2.norm_c, inner, self.activation, shortcut.to(inner.dtype)))


class Stem(ResNetBasicStem):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not takes(x_BCTHW) or frozen(self, x_BCTHW):
            return super().forward(x_BCTHW)
        x = channels_last(x_BCTHW)
        for conv in [self.conv] if isinstance(self.conv, nn.Conv3d) else [self.conv.conv_t, self.conv.conv_xy]:
            x = convolved(conv, x, conv.out_channels)
        x = channels_first(normalized(self.norm, x, self.activation))
        return self.pool(x) if self.pool is not None else x


SWAPS = {BottleneckBlock: Bottleneck, ResBlock: Residual, ResNetBasicStem: Stem}


def suits(block: nn.Module) -> bool:
    """Whether a class above computes this block of PyTorchVideo's. Others keep their own forward pass, by layers.py."""
    match block:
        case BottleneckBlock():
            parts = ((getattr(block, f"{kind}_{part}", None) for kind in ("conv", "norm", "act")) for part in "abc")
            return all(_plain(conv) and _known(norm, act) for conv, norm, act in parts)
        case ResBlock():
            conv, norm = block.branch1_conv, block.branch1_norm
            shortcut = conv is None or (_plain(conv) and (norm is None or _known(norm)))
            return shortcut and suits(block.branch2) and type(block.activation) in ACTIVATIONS
        case ResNetBasicStem():
            conv = block.conv
            if isinstance(conv, Conv2plus1d) and conv.norm is None and conv.activation is None:
                return _plain(conv.conv_t) and _plain(conv.conv_xy) and _known(block.norm, block.activation)
            return _plain(conv) and _known(block.norm, block.activation)
    return False


def _plain(conv: nn.Module) -> bool:
    """Whether `convolved` computes a convolution: without bias, with "same" padding, and square strides."""
    same = isinstance(conv, nn.Conv3d) and conv.padding == tuple(k // 2 for k in conv.kernel_size)
    return same and conv.bias is None and conv.stride[1] == conv.stride[2]


def _known(norm: nn.Module | None, act: nn.Module | None = None) -> bool:
    """Whether `normalized` computes a norm and its activation."""
    norm, gate = norm if isinstance(norm, nn.Sequential) and len(norm) == 2 else (norm, nn.Identity())
    kept = isinstance(norm, nn.BatchNorm3d) and norm.affine and norm.track_running_stats and norm.momentum
    return bool(kept) and isinstance(gate, (nn.Identity, SqueezeExcitation)) and type(act) in ACTIVATIONS
