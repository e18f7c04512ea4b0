"""How the networks are computed on a CUDA device: channels last, few launches, nothing stored twice.

Stock X3D-M spends its step in the depthwise convolutions' backward, in BatchNorm's, and in the host's launches. Here the
depthwise convolutions and every BatchNorm with its activation (and residual sum, and squeeze-and-excitation) are Triton
kernels (kernels.py), pointwise convolutions are matrix products, and a whole forward and backward is replayed as two
CUDA graphs (`Replay`).

Inner widths are padded with zeros to a multiple of 8 (54 -> 56), which tensor cores and 16-byte loads ask for.
"""

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorchvideo.models.resnet import BottleneckBlock, ResBlock
from pytorchvideo.models.slowfast import FuseFastToSlow
from pytorchvideo.models.stem import ResNetBasicStem
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

try:
    from framebudget.models import kernels
except ImportError:  # Triton comes with torch where there may be a CUDA device, and nowhere else
    kernels = None

NONE, RELU, SILU = 0, 1, 2
ACTIVATIONS = {nn.ReLU: RELU, nn.SiLU: SILU, nn.Identity: NONE, type(None): NONE}
SPLIT = 256  # rows of a part, at least, in the weight gradient of a matrix product
TAKEN = torch.float32, torch.bfloat16, torch.float16


class Pointwise(torch.autograd.Function):
    """x_BTHWC · weight_OIᵀ. Its weight gradient sums over hundreds of thousands of rows: in parts, then over those."""

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
    """kernels.depthwise and its gradients."""

    @staticmethod
    def forward(ctx, x_BTHWC: Tensor, weight_KC: Tensor, kernel: tuple[int, int, int], stride: int) -> Tensor:
        ctx.save_for_backward(x_BTHWC, weight_KC)
        ctx.geometry = kernel, stride
        return kernels.depthwise(x_BTHWC, weight_KC, kernel, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTHWC: Tensor) -> tuple[Tensor | None, ...]:
        x_BTHWC, weight_KC = ctx.saved_tensors
        dx, dweight = kernels.depthwise_gradients(grad_BTHWC.contiguous(), x_BTHWC, weight_KC, *ctx.geometry)
        return dx, dweight.to(weight_KC.dtype), None, None


class NormAct(torch.autograd.Function):
    """act(BatchNorm(x) + residual), of the batch's own statistics; the running ones are updated."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, norm: nn.BatchNorm3d, act: int):
        ctx.act, ctx.count = act, x[..., 0].numel()
        scale, shift, mean, rstd = kernels.normalization(
            kernels.sums(x), ctx.count, weight, bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
        )
        y = kernels.apply(x, scale, shift, residual, act)
        ctx.save_for_backward(x, weight, scale, shift, mean, rstd, y if residual is not None else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, shift, mean, rstd, y = ctx.saved_tensors
        dy = dy.contiguous()
        parts = kernels.sums(x, dy, y, scale, shift, ctx.act)
        linear, constant, dweight, dbias = kernels.normalization_gradient(parts, ctx.count, weight, mean, rstd)
        dx, dresidual = kernels.apply_gradient(x, dy, y, scale, shift, linear, constant, ctx.act)
        return dx, dweight, dbias, dresidual, None, None


class GatedNormAct(torch.autograd.Function):
    """act(gate · BatchNorm(x)), the gate of each clip and channel from squeeze-and-excitation.

    What squeezing asks for, the clips' means after the norm, follows from the sums that the norm takes anyway.
    parameters: weight and bias of the norm, and of both layers of the gate.
    """

    @staticmethod
    def forward(ctx, x: Tensor, norm: nn.BatchNorm3d, act: int, *parameters: Tensor) -> Tensor:
        ctx.act, ctx.count, ctx.eps = act, x[0, ..., 0].numel(), norm.eps
        sums_B2C = kernels.sums(x).sum(1, dtype=torch.float64)
        with torch.autocast(x.device.type, enabled=False):
            scale_BC, shift_BC, mean_C, var_C = gated_affine(sums_B2C, ctx.count, norm.eps, *parameters)
        own, total = len(norm.running_mean), ctx.count * len(x)
        norm.running_mean.lerp_(mean_C[:own], norm.momentum)
        norm.running_var.lerp_(var_C[:own] * total / (total - 1), norm.momentum)
        ctx.save_for_backward(x, sums_B2C, scale_BC, shift_BC, *parameters)
        return kernels.apply(x, scale_BC, shift_BC, None, act)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, sums_B2C, scale_BC, shift_BC, *parameters = ctx.saved_tensors
        dy = dy.contiguous()
        of_shift, of_scale = kernels.sums(x, dy, None, scale_BC, shift_BC, ctx.act).sum(1).unbind(1)
        inputs = [tensor.detach().requires_grad_() for tensor in (sums_B2C, *parameters)]
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            scale, shift, _, _ = gated_affine(inputs[0], ctx.count, ctx.eps, *inputs[1:])
            dsums_B2C, *gradients = torch.autograd.grad((scale, shift), inputs, (of_scale, of_shift))
        constant, linear = dsums_B2C[:, 0].float(), 2 * dsums_B2C[:, 1].float()
        dx, _ = kernels.apply_gradient(x, dy, None, scale_BC, shift_BC, linear.contiguous(), constant.contiguous(), ctx.act)
        return dx, None, None, *gradients


def gated_affine(
    sums_B2C: Tensor, count: int, eps: float, weight: Tensor, bias: Tensor, *gate: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scale_BC and shift_BC of a gated BatchNorm from its clips' sums of x and x² (float64), and mean_C and var_C."""
    mean_B2C = sums_B2C / count
    mean_C, square_C = mean_B2C.mean(0)
    var_C = (square_C - mean_C.square()).clamp(min=0).float()
    mean_BC, mean_C = mean_B2C[:, 0].float(), mean_C.float()
    scale_C = padded(weight, mean_C.shape[0]) * (var_C + eps).rsqrt()
    shift_C = padded(bias, mean_C.shape[0]) - mean_C * scale_C
    squeezed_BC = mean_BC * scale_C + shift_C
    first, first_bias, second, second_bias = gate
    hidden = F.relu(F.linear(squeezed_BC[:, : first.shape[1]], first.flatten(1), first_bias))
    gate_BC = padded(F.linear(hidden, second.flatten(1), second_bias).sigmoid(), mean_C.shape[0])
    return gate_BC * scale_C, gate_BC * shift_C, mean_C, var_C


def padded(tensor: Tensor, width: int) -> Tensor:
    """Zeros up to this many channels behind the last dimension's own."""
    return F.pad(tensor, (0, width - tensor.shape[-1])) if tensor.shape[-1] < width else tensor


def lasting(x_BCTHW: Tensor) -> Tensor:
    """x_BTHWC, contiguous: a view of a tensor that is channels last."""
    return x_BCTHW.permute(0, 2, 3, 4, 1).contiguous()


def first_again(x_BTHWC: Tensor) -> Tensor:
    """x_BCTHW, channels last in memory."""
    return x_BTHWC.permute(0, 4, 1, 2, 3)


def takes(x: Tensor) -> bool:
    """Whether the ways of this module are meant for such a tensor. Ranks share statistics, and the compiler fuses, by
    other ways."""
    ranks = distributed.is_initialized() and distributed.get_world_size() > 1
    return x.is_cuda and x.dtype in TAKEN and not ranks and not torch.compiler.is_compiling()


def autocast_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def convolved(conv: nn.Conv3d, x_BTHWC: Tensor, width: int) -> Tensor:
    """A convolution, its output padded to `width` channels; the input may be padded already."""
    x = x_BTHWC.to(autocast_dtype(x_BTHWC))
    weight = conv.weight.to(x.dtype)
    kernel, stride, groups = conv.kernel_size, conv.stride, conv.groups
    if groups > 1:
        weight_KC = padded(conv.weight.flatten(1).t(), x.shape[-1]).contiguous()
        return Depthwise.apply(x, weight_KC, kernel, stride[1])
    more_in, more_out = x.shape[-1] - conv.in_channels, width - conv.out_channels
    if kernel == (1, 1, 1):
        if stride != (1, 1, 1):
            x = x[:, :: stride[0], :: stride[1], :: stride[2]].contiguous()
        weight = weight.flatten(1)
        return Pointwise.apply(x, F.pad(weight, (0, more_in, 0, more_out)) if more_in or more_out else weight)
    if conv.in_channels == 3:
        return patches_product(conv, x, weight)
    if kernel[1:] == (1, 1) and stride[0] > 1:
        return moments_product(conv, x, weight)
    return lasting(F.conv3d(first_again(x), weight, None, stride, conv.padding))


def patches_product(conv: nn.Conv3d, x_BTHWC: Tensor, weight: Tensor) -> Tensor:
    """A stem as the matrix product of all patches of a picture with the weights of all moments, which is then summed
    over the moments. (For three channels, cuDNN has no way that uses tensor cores.)"""
    (KT, KH, KW), (_, stride, _), (_, pad, _) = conv.kernel_size, conv.stride, conv.padding
    T, O = x_BTHWC.shape[1], conv.out_channels  # noqa: E741
    x = F.pad(x_BTHWC, (0, 0, pad, pad, pad, pad))
    H, W = x.shape[2] - KH + 1, x.shape[3] - KW + 1
    places = [x[:, :, h : h + H : stride, w : w + W : stride] for h in range(KH) for w in range(KW)]
    missing = -3 * KH * KW % 8
    patches = torch.cat([*places, places[0].new_zeros(()).expand(*places[0].shape[:-1], missing)], -1)
    rows = padded(weight.permute(2, 0, 3, 4, 1).flatten(2).flatten(0, 1), patches.shape[-1])
    products = Pointwise.apply(patches, rows)
    if KT == 1:
        return products
    products = F.pad(products, (0, 0, 0, 0, 0, 0, KT // 2, KT // 2))
    return sum(products[:, k : k + T, :, :, k * O : (k + 1) * O] for k in range(KT)).contiguous()


def moments_product(conv: nn.Conv3d, x_BTHWC: Tensor, weight: Tensor) -> Tensor:
    """A strided convolution over time alone, as a matrix product of its moments side by side."""
    KT, stride, pad = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    x = F.pad(x_BTHWC, (0, 0, 0, 0, 0, 0, pad, pad))
    T = x.shape[1] - KT + 1
    moments = torch.cat([x[:, k : k + T : stride] for k in range(KT)], -1)
    return Pointwise.apply(moments, weight.flatten(2).transpose(1, 2).flatten(1))


def normalized(norm: nn.Module, x: Tensor, act: nn.Module | None, residual: Tensor | None = None) -> Tensor:
    """act(norm(x) + residual), or gated by squeeze-and-excitation where norm is a sequence of both."""
    gate, kind = None, ACTIVATIONS[type(act)]
    if isinstance(norm, nn.Sequential):
        norm, gate = norm
        gate = None if isinstance(gate, nn.Identity) else gate.block
    if not norm.training:
        return settled(norm, gate, x, kind, residual)
    norm.num_batches_tracked += 1
    if gate is None:
        return NormAct.apply(x, norm.weight, norm.bias, residual, norm, kind)
    layers = gate[0].weight, gate[0].bias, gate[2].weight, gate[2].bias
    return GatedNormAct.apply(x, norm, kind, norm.weight, norm.bias, *layers)


def settled(norm: nn.BatchNorm3d, gate: nn.Module | None, x: Tensor, kind: int, residual: Tensor | None) -> Tensor:
    """The same by the running statistics."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    scale, shift = padded(scale, x.shape[-1]), padded(shift, x.shape[-1])
    if torch.is_grad_enabled():  # frozen norms in a training: torch's own operators know all gradients
        y = x * scale + shift
        if gate is not None:
            mean = first_again(y.mean((1, 2, 3), keepdim=True)[..., : norm.num_features])
            y = y * padded(lasting(gate(mean)), x.shape[-1])
        y = y if residual is None else y + residual
        return {NONE: nn.Identity(), RELU: F.relu, SILU: F.silu}[kind](y).to(x.dtype)
    if gate is not None:
        mean_BC = kernels.sums(x)[:, :, 0].sum(1) / x[0, ..., 0].numel()
        squeezed_BC = (mean_BC * scale + shift)[:, : norm.num_features]
        gate_BC = padded(gate(squeezed_BC[..., None, None, None]).flatten(1), x.shape[-1]).float()
        scale, shift = gate_BC * scale, gate_BC * shift
    return kernels.apply(x, scale.contiguous(), shift.contiguous(), residual, kind)


class Bottleneck(BottleneckBlock):
    """Three convolutions, each with its norm; the last norm belongs to the sum and is left to `Residual`."""

    def inner(self, x_BTHWC: Tensor) -> Tensor:
        width = self.conv_a.out_channels + (-self.conv_a.out_channels % 8 if self.conv_b.groups > 1 else 0)
        x = normalized(self.norm_a, convolved(self.conv_a, x_BTHWC, width), self.act_a)
        x = normalized(self.norm_b, convolved(self.conv_b, x, width), self.act_b)
        return convolved(self.conv_c, x, self.conv_c.out_channels)


class Residual(ResBlock):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not takes(x_BCTHW):
            return super().forward(x_BCTHW)
        shortcut = x = lasting(x_BCTHW)
        if self.branch1_conv is not None:
            shortcut = convolved(self.branch1_conv, x, self.branch1_conv.out_channels)
            if self.branch1_norm is not None:
                shortcut = normalized(self.branch1_norm, shortcut, None)
        inner = self.branch2.inner(x)
        return first_again(normalized(self.branch2.norm_c, inner, self.activation, shortcut.to(inner.dtype)))


class Stem(ResNetBasicStem):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not takes(x_BCTHW):
            return super().forward(x_BCTHW)
        x = lasting(x_BCTHW)
        for conv in [self.conv] if isinstance(self.conv, nn.Conv3d) else [self.conv.conv_t, self.conv.conv_xy]:
            x = convolved(conv, x, conv.out_channels)
        x = first_again(normalized(self.norm, x, self.activation))
        return self.pool(x) if self.pool is not None else x


class Lateral(FuseFastToSlow):
    """What flows from the fast pathway into the slow one."""

    def forward(self, pathways: list[Tensor]) -> list[Tensor]:
        slow, fast = pathways
        if not takes(fast):
            return super().forward(pathways)
        x = convolved(self.conv_fast_to_slow, lasting(fast), self.conv_fast_to_slow.out_channels)
        x = normalized(self.norm, x, self.activation)
        return [first_again(torch.cat([lasting(slow), x.to(slow.dtype)], -1)), fast]


SWAPS = {BottleneckBlock: Bottleneck, ResBlock: Residual, ResNetBasicStem: Stem, FuseFastToSlow: Lateral}


class Trunk(nn.Module):
    """A network without its head, whose dropout draws on the host."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.blocks, self.enter = network.blocks[:-1], getattr(network, "pathways", lambda clips_BCTHW: clips_BCTHW)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        x = self.enter(clips_BCTHW)
        for block in self.blocks:
            x = block(x)
        return x


class Replay:
    """The steps of a network, replayed as CUDA graphs on batches of one shape in training, and of one in evaluation.

    Launching X3D-M's kernels one by one takes the host longer than the device takes to compute them. Other batches, as
    the last of an epoch, run as they come. Results are the same bytes either way.
    """

    def __init__(self, network: nn.Module):
        self.network, self.shapes, self.graphs = network, {}, {}

    def __call__(self, clips_BCTHW: Tensor) -> Tensor:
        network, training = self.network, self.network.training and torch.is_grad_enabled()
        if not takes(clips_BCTHW) or network._compiled_call_impl or (training and not learns(network.blocks[:-1])):
            return network(clips_BCTHW)
        if training not in self.shapes:
            self.shapes[training] = clips_BCTHW.shape
            if not training:  # it may be the only batch to predict
                return network(clips_BCTHW)
        if clips_BCTHW.shape != self.shapes[training]:
            return network(clips_BCTHW)
        if training not in self.graphs:
            self.graphs[training] = captured_training(network, clips_BCTHW) if training else captured(network, clips_BCTHW)
        return self.graphs[training](clips_BCTHW)


def learns(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def captured_training(network: nn.Module, clips_BCTHW: Tensor) -> Callable[[Tensor], Tensor]:
    """clips_BCTHW -> logits_BK with gradients. The steps that warm it up leave no trace in the running statistics."""
    trunk = Trunk(network)
    before = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # capturing takes a stream of its own
    with uncached_autocast(clips_BCTHW):
        graph = torch.cuda.make_graphed_callables(trunk, (clips_BCTHW.clone(),), allow_unused_input=True)
    for name, buffer in trunk.named_buffers():
        buffer.copy_(before[name])
    return lambda clips_BCTHW: network.blocks[-1](graph(clips_BCTHW))


def captured(network: nn.Module, clips_BCTHW: Tensor) -> Callable[[Tensor], Tensor]:
    """clips_BCTHW -> logits_BK without gradients."""
    given, side = clips_BCTHW.clone(), torch.cuda.Stream()
    with uncached_autocast(clips_BCTHW):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is made at first use is no part of a graph
            network(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits_BK = network(given)

    def replay(clips_BCTHW: Tensor) -> Tensor:
        given.copy_(clips_BCTHW)
        graph.replay()
        return logits_BK.clone()

    return replay


def uncached_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """The autocast that is on, without its cache, which would keep casts that a graph must do anew."""
    device = x.device.type
    return torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
    )
