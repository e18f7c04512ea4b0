"""BatchNorm with its activation and residual sum, channels last; P = T·H·W positions."""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from framebudget.models.kernels import NONE, tile


@triton.jit
def _activated_gradient(dy, z, ACT: tl.constexpr):
    """The gradient before the activation; z is the activation's input (for a ReLU, its output works too)."""
    if ACT == 1:
        dy = tl.where(z > 0, dy, 0.0)
    elif ACT == 2:
        gate = tl.sigmoid(z)
        dy = dy * gate * (1 + z * (1 - gate))
    return dy


@triton.jit
def _sums(
    x, dy, y, scale, shift, parts, P, across, C: tl.constexpr, KIND: tl.constexpr, ACT: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Two sums over a part of a clip's positions, (B, parts, 2, C).

    KIND 0: of x and of x². KIND 1 and 2: of dz and of dz·x, where z = x·scale + shift is the activation's input. With
    KIND 2, z also includes a residual, and y, the output, shows where a ReLU is closed.
    across: the distance from one clip's scale to the next one's; 0 if all share one.
    """
    clip, part, parts_in_all = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    base = clip * P * C
    if KIND == 1:
        a = tl.load(scale + clip * across + c, mask=c < C, other=0)[None, :]
        b = tl.load(shift + clip * across + c, mask=c < C, other=0)[None, :]
    for start in range(part * BLOCK_P, P, parts_in_all * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = (p < P)[:, None] & (c < C)[None, :]
        at = base + p[:, None] * C + c[None, :]
        value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
        if KIND == 0:
            first += value
            second += value * value
        else:
            grad = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
            if KIND == 1:  # noqa: SIM108 - of the two, one is compiled
                z = value * a + b
            else:
                z = tl.load(y + at, mask=mask, other=0).to(tl.float32)
            grad = _activated_gradient(grad, z, ACT)
            first += grad
            second += grad * value
    to = parts + ((clip * parts_in_all + part) * 2) * C + c
    tl.store(to, tl.sum(first, 0), mask=c < C)
    tl.store(to + C, tl.sum(second, 0), mask=c < C)


@triton.jit
def _two_sums(parts, number, c, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr):
    """All parts of both sums, in float64."""
    first = tl.zeros([BLOCK_N, BLOCK_C], tl.float64)
    second = tl.zeros([BLOCK_N, BLOCK_C], tl.float64)
    for start in range(0, number, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        mask = (n < number)[:, None] & (c < C)[None, :]
        at = parts + n[:, None] * 2 * C + c[None, :]
        first += tl.load(at, mask=mask, other=0).to(tl.float64)
        second += tl.load(at + C, mask=mask, other=0).to(tl.float64)
    return tl.sum(first, 0), tl.sum(second, 0)


@triton.jit
def _normalization(
    parts, weight, bias, running_mean, running_var, scale, shift, mean_out, rstd_out, number, count, momentum, eps, own,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """From the sums of x and x² over `count` positions to y = x·scale + shift. Updates the running statistics.

    own: the number of real channels; the others, up to C, are padding and come out as zero.
    """
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    first, second = _two_sums(parts, number, c, C, BLOCK_N, BLOCK_C)
    mean = first / count
    var = tl.maximum(second / count - mean * mean, 0.0)
    rstd = 1 / tl.sqrt(var + eps)
    mine = c < own
    a = tl.load(weight + c, mask=mine, other=0).to(tl.float64) * rstd
    b = tl.load(bias + c, mask=mine, other=0).to(tl.float64) - mean * a
    tl.store(scale + c, a, mask=c < C)
    tl.store(shift + c, b, mask=c < C)
    tl.store(mean_out + c, mean, mask=c < C)
    tl.store(rstd_out + c, rstd, mask=c < C)
    before = tl.load(running_mean + c, mask=mine, other=0).to(tl.float64)
    tl.store(running_mean + c, before + momentum * (mean - before), mask=mine)
    before = tl.load(running_var + c, mask=mine, other=0).to(tl.float64)
    tl.store(running_var + c, before + momentum * (var * count / (count - 1) - before), mask=mine)


@triton.jit
def _normalization_gradient(
    parts, weight, mean_in, rstd_in, linear, constant, dweight, dbias, number, count, own,
    C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """From the sums of dz and dz·x to dweight, dbias, linear and constant: dx = dz·scale + linear·x + constant."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    of_dz, of_dzx = _two_sums(parts, number, c, C, BLOCK_N, BLOCK_C)
    mine = c < own
    gamma = tl.load(weight + c, mask=mine, other=0).to(tl.float64)
    mean = tl.load(mean_in + c, mask=c < C, other=0).to(tl.float64)
    rstd = tl.load(rstd_in + c, mask=c < C, other=0).to(tl.float64)
    dgamma = (of_dzx - mean * of_dz) * rstd
    tl.store(dweight + c, dgamma, mask=mine)
    tl.store(dbias + c, of_dz, mask=mine)
    slope = -gamma * rstd * rstd * dgamma / count
    tl.store(linear + c, slope, mask=c < C)
    tl.store(constant + c, -gamma * rstd * of_dz / count - slope * mean, mask=c < C)


@triton.jit
def _of_running_statistics(
    weight, bias, running_mean, running_var, scale, shift, eps, own, C: tl.constexpr, BLOCK_C: tl.constexpr
):
    """scale and shift of the running statistics; zero from channel `own` on."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    mine = c < own
    a = tl.load(weight + c, mask=mine, other=0) / tl.sqrt(tl.load(running_var + c, mask=mine, other=1) + eps)
    b = tl.load(bias + c, mask=mine, other=0) - tl.load(running_mean + c, mask=mine, other=0) * a
    tl.store(scale + c, a, mask=c < C)
    tl.store(shift + c, b, mask=c < C)


@triton.jit
def _apply(
    x, residual, scale, shift, y, P, across, C: tl.constexpr, ADD: tl.constexpr, ACT: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = act(x·scale + shift + residual)."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    clip = tl.program_id(1).to(tl.int64)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (p < P)[:, None] & (c < C)[None, :]
    at = clip * P * C + p[:, None] * C + c[None, :]
    a = tl.load(scale + clip * across + c, mask=c < C, other=0)[None, :]
    b = tl.load(shift + clip * across + c, mask=c < C, other=0)[None, :]
    z = tl.load(x + at, mask=mask, other=0).to(tl.float32) * a + b
    if ADD:
        z += tl.load(residual + at, mask=mask, other=0).to(tl.float32)
    if ACT == 1:
        z = tl.maximum(z, 0.0)
    elif ACT == 2:
        z = z * tl.sigmoid(z)
    tl.store(y + at, z, mask=mask)


@triton.jit
def _apply_gradient(
    x, dy, y, scale, shift, linear, constant, dx, dresidual, P, across,
    C: tl.constexpr, ADD: tl.constexpr, ACT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dx = dz·scale + linear·x + constant, and dz itself for the residual."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    clip = tl.program_id(1).to(tl.int64)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (p < P)[:, None] & (c < C)[None, :]
    at = clip * P * C + p[:, None] * C + c[None, :]
    a = tl.load(scale + clip * across + c, mask=c < C, other=0)[None, :]
    k = tl.load(linear + clip * across + c, mask=c < C, other=0)[None, :]
    l = tl.load(constant + clip * across + c, mask=c < C, other=0)[None, :]  # noqa: E741
    value = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    grad = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
    if ADD:
        grad = _activated_gradient(grad, tl.load(y + at, mask=mask, other=0).to(tl.float32), ACT)
        tl.store(dresidual + at, grad, mask=mask)
    else:
        b = tl.load(shift + clip * across + c, mask=c < C, other=0)[None, :]
        grad = _activated_gradient(grad, value * a + b, ACT)
    tl.store(dx + at, grad * a + k * value + l, mask=mask)


def sums(x: Tensor, dy: Tensor | None = None, y: Tensor | None = None, scale: Tensor | None = None,
         shift: Tensor | None = None, act: int = NONE) -> Tensor:  # fmt: skip
    """parts_BN2C float32: N parts of the sums over each clip of x and x², or, with dy, of dz and dz·x."""
    B, C = len(x), x.shape[-1]
    P = x[0].numel() // C
    (positions, channels), number = tile(C, 4096), max(1, min(64, P // 128))
    parts = x.new_empty(B, number, 2, C, dtype=torch.float32)
    kind = 0 if dy is None else 1 if y is None else 2
    _sums[(B, number, triton.cdiv(C, channels))](
        x, dy, y, scale, shift, parts, P, _across(scale), C, kind, act, positions, channels, num_warps=4
    )
    return parts


def normalization(parts: Tensor, count: int, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor,
                  momentum: float, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """scale, shift, mean and rstd (C,) of a batch's own statistics; the running ones are updated in place."""
    C = parts.shape[-1]
    scale, shift, mean, rstd = parts.new_empty(4, C)
    _normalization[(triton.cdiv(C, 16),)](
        parts, weight, bias, running_mean, running_var, scale, shift, mean, rstd, parts[..., 0, 0].numel(), count,
        momentum, eps, len(weight), C, 256, 16, num_warps=8,
    )  # fmt: skip
    return scale, shift, mean, rstd


def normalization_gradient(
    parts: Tensor, count: int, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """linear and constant (C,) for `apply_gradient`, dweight and dbias."""
    C = parts.shape[-1]
    linear, constant = parts.new_empty(2, C)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
    _normalization_gradient[(triton.cdiv(C, 16),)](
        parts, weight, mean, rstd, linear, constant, dweight, dbias, parts[..., 0, 0].numel(), count, len(weight), C,
        256, 16, num_warps=8,
    )  # fmt: skip
    return linear, constant, dweight, dbias


def of_running_statistics(norm: nn.BatchNorm3d, C: int) -> tuple[Tensor, Tensor]:
    """scale and shift (C,) of a norm's running statistics, padded with zeros."""
    scale, shift = norm.weight.new_empty(2, C)
    _of_running_statistics[(triton.cdiv(C, 128),)](
        norm.weight, norm.bias, norm.running_mean, norm.running_var, scale, shift, norm.eps, norm.num_features, C, 128
    )
    return scale, shift


def apply(x: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, act: int) -> Tensor:
    """act(x·scale + shift + residual); scale and shift are (C,) or (B, C), float32."""
    y, C = torch.empty_like(x), x.shape[-1]
    P, (positions, channels) = x[0].numel() // C, tile(C, 2048)
    grid = triton.cdiv(P, positions), len(x), triton.cdiv(C, channels)
    _apply[grid](
        x, residual, scale, shift, y, P, _across(scale), C, residual is not None, act, positions, channels, num_warps=4
    )
    return y


def apply_gradient(x: Tensor, dy: Tensor, y: Tensor | None, scale: Tensor, shift: Tensor, linear: Tensor,
                   constant: Tensor, act: int) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """dx, and the residual's gradient if y, the output of a sum with a residual, is given."""
    dx, C = torch.empty_like(x), x.shape[-1]
    dresidual = None if y is None else torch.empty_like(x)
    P, (positions, channels) = x[0].numel() // C, tile(C, 2048)
    grid = triton.cdiv(P, positions), len(x), triton.cdiv(C, channels)
    _apply_gradient[grid](
        x, dy, y, scale, shift, linear, constant, dx, dresidual, P, _across(scale), C, y is not None, act,
        positions, channels, num_warps=4,
    )  # fmt: skip
    return dx, dresidual


def _across(scale: Tensor | None) -> int:
    return scale.shape[-1] if scale is not None and scale.dim() == 2 else 0
