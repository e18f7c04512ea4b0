"""Squeeze-and-excitation on top of a BatchNorm: the gates of each clip, and all gradients, in a few launches.

h = ReLU(first · q + first_bias), gate = sigmoid(second · h + second_bias), where q = mean·scale + shift are the clips'
means after the norm. The activations are gated by multiplying the norm's scale and shift: scale_BC, shift_BC.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _gates(
    parts, scale, shift, first, first_bias, second, second_bias, mean_out, hidden_out, gate_out, scale_out, shift_out,
    number, count, own, HIDDEN: tl.constexpr, C: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gates of one clip, from its parts of sums over `count` positions. own: the number of real channels."""
    clip = tl.program_id(0)
    c, h = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_H)
    total = tl.zeros([BLOCK_C], tl.float64)
    for n in range(number):
        total += tl.load(parts + ((clip * number + n) * 2) * C + c, mask=c < C, other=0).to(tl.float64)
    mean = (total / count).to(tl.float32)
    a, b = tl.load(scale + c, mask=c < C, other=0), tl.load(shift + c, mask=c < C, other=0)
    both = (h < HIDDEN)[:, None] & (c < own)[None, :]
    weight = tl.load(first + h[:, None] * own + c[None, :], mask=both, other=0)
    hidden = tl.sum(weight * (mean * a + b)[None, :], 1) + tl.load(first_bias + h, mask=h < HIDDEN, other=0)
    hidden = tl.maximum(hidden, 0.0)
    weight = tl.load(second + c[None, :] * HIDDEN + h[:, None], mask=both, other=0)
    gate = tl.sigmoid(tl.sum(weight * hidden[:, None], 0) + tl.load(second_bias + c, mask=c < own, other=0))
    tl.store(mean_out + clip * C + c, mean, mask=c < C)
    tl.store(hidden_out + clip * HIDDEN + h, hidden, mask=h < HIDDEN)
    tl.store(gate_out + clip * C + c, gate, mask=c < C)
    tl.store(scale_out + clip * C + c, gate * a, mask=c < C)
    tl.store(shift_out + clip * C + c, gate * b, mask=c < C)


@triton.jit
def _gate_gradients(
    parts, scale, shift, first, second, hidden_in, gate_in, dscale_out, dshift_out, dlogit_out, dhidden_out, dq_out,
    number, own, HIDDEN: tl.constexpr, C: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradients of one clip's scale, shift, gate before the sigmoid, hidden layer before the ReLU, and q.

    parts: of the sums of dz and dz·x, which are the gradients of the clip's shift and scale.
    """
    clip = tl.program_id(0)
    c, h = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_H)
    dshift = tl.zeros([BLOCK_C], tl.float64)
    dscale = tl.zeros([BLOCK_C], tl.float64)
    for n in range(number):
        at = parts + ((clip * number + n) * 2) * C + c
        dshift += tl.load(at, mask=c < C, other=0).to(tl.float64)
        dscale += tl.load(at + C, mask=c < C, other=0).to(tl.float64)
    a, b = tl.load(scale + c, mask=c < C, other=0), tl.load(shift + c, mask=c < C, other=0)
    gate = tl.load(gate_in + clip * C + c, mask=c < C, other=0)
    dlogit = ((dscale * a + dshift * b) * gate * (1 - gate)).to(tl.float32)
    both = (h < HIDDEN)[:, None] & (c < own)[None, :]
    weight = tl.load(second + c[None, :] * HIDDEN + h[:, None], mask=both, other=0)
    reached = tl.load(hidden_in + clip * HIDDEN + h, mask=h < HIDDEN, other=0) > 0
    dhidden = tl.where(reached, tl.sum(weight * dlogit[None, :], 1), 0.0)
    weight = tl.load(first + h[:, None] * own + c[None, :], mask=both, other=0)
    tl.store(dscale_out + clip * C + c, dscale, mask=c < C)
    tl.store(dshift_out + clip * C + c, dshift, mask=c < C)
    tl.store(dlogit_out + clip * C + c, dlogit, mask=c < C)
    tl.store(dhidden_out + clip * HIDDEN + h, dhidden, mask=h < HIDDEN)
    tl.store(dq_out + clip * C + c, tl.sum(weight * dhidden[:, None], 0), mask=c < C)


@triton.jit
def _parameter_gradients(
    dscale_in, dshift_in, dlogit_in, dhidden_in, dq_in, mean_in, hidden_in, gate_in, scale, shift, weight,
    norm_mean, norm_rstd, linear, constant, dweight, dbias, dfirst, dfirst_bias, dsecond, dsecond_bias,
    clips, count, own, HIDDEN: tl.constexpr, C: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """All gradients of parameters for a few channels, and linear and constant: dx = dz·scale + linear·x + constant."""
    c, h = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_H)
    mine = c < own
    a, b = tl.load(scale + c, mask=mine, other=0), tl.load(shift + c, mask=mine, other=0)
    of_scale = tl.zeros([BLOCK_C], tl.float64)
    of_shift = tl.zeros([BLOCK_C], tl.float64)
    of_logit = tl.zeros([BLOCK_C], tl.float32)
    of_first = tl.zeros([BLOCK_H, BLOCK_C], tl.float32)
    of_second = tl.zeros([BLOCK_H, BLOCK_C], tl.float32)
    of_hidden = tl.zeros([BLOCK_H], tl.float32)
    for start in range(0, clips, BLOCK_B):
        clip = start + tl.arange(0, BLOCK_B)
        mask = (clip < clips)[:, None] & mine[None, :]
        at = clip[:, None] * C + c[None, :]
        mean, dq = tl.load(mean_in + at, mask=mask, other=0), tl.load(dq_in + at, mask=mask, other=0)
        gate, dlogit = tl.load(gate_in + at, mask=mask, other=0), tl.load(dlogit_in + at, mask=mask, other=0)
        dscale, dshift = tl.load(dscale_in + at, mask=mask, other=0), tl.load(dshift_in + at, mask=mask, other=0)
        of_scale += tl.sum(dscale.to(tl.float64) * gate + dq.to(tl.float64) * mean, 0)
        of_shift += tl.sum(dshift.to(tl.float64) * gate + dq, 0)
        of_logit += tl.sum(dlogit, 0)
        mask = (clip < clips)[:, None] & (h < HIDDEN)[None, :]
        at = clip[:, None] * HIDDEN + h[None, :]
        hidden, dhidden = tl.load(hidden_in + at, mask=mask, other=0), tl.load(dhidden_in + at, mask=mask, other=0)
        of_hidden += tl.sum(dhidden, 0)
        of_first += tl.sum(dhidden[:, :, None] * (mean * a + b)[:, None, :], 0)
        of_second += tl.sum(hidden[:, :, None] * dlogit[:, None, :], 0)
    gamma = tl.load(weight + c, mask=mine, other=0).to(tl.float64)
    center = tl.load(norm_mean + c, mask=mine, other=0).to(tl.float64)
    rstd = tl.load(norm_rstd + c, mask=mine, other=0).to(tl.float64)
    of_scale -= of_shift * center
    of_var = -0.5 * rstd * rstd * rstd * gamma * of_scale
    of_center = -of_shift * gamma * rstd - 2 * center * of_var
    tl.store(dweight + c, of_scale * rstd, mask=mine)
    tl.store(dbias + c, of_shift, mask=mine)
    tl.store(dsecond_bias + c, of_logit, mask=mine)
    both = (h < HIDDEN)[:, None] & mine[None, :]
    tl.store(dfirst + h[:, None] * own + c[None, :], of_first, mask=both)
    tl.store(dsecond + c[None, :] * HIDDEN + h[:, None], of_second, mask=both)
    if tl.program_id(0) == 0:
        tl.store(dfirst_bias + h, of_hidden, mask=h < HIDDEN)
    for clip in range(clips):
        dq = tl.load(dq_in + clip * C + c, mask=mine, other=0).to(tl.float64)
        constant_BC = (dq * gamma * rstd + of_center / clips) / count
        tl.store(constant + clip * C + c, constant_BC, mask=c < C)
        tl.store(linear + clip * C + c, 2 * of_var / clips / count, mask=c < C)


def gates(parts: Tensor, count: int, scale: Tensor, shift: Tensor, layers: list[Tensor]) -> tuple[Tensor, ...]:
    """mean_BC, hidden_BH and gate_BC of each clip, and its scale_BC and shift_BC.

    parts_BN2C: sums over parts of a clip's `count` positions. layers: weight and bias of both layers.
    """
    B, number, _, C = parts.shape
    (hidden, own), blocks = layers[0].shape[:2], blocked(layers[0], C)
    mean_BC, gate_BC, scale_BC, shift_BC = parts.new_empty(4, B, C)
    hidden_BH = parts.new_empty(B, hidden)
    _gates[(B,)](
        parts, scale, shift, *layers, mean_BC, hidden_BH, gate_BC, scale_BC, shift_BC, number, count, own,
        hidden, C, *blocks, num_warps=8,
    )  # fmt: skip
    return mean_BC, hidden_BH, gate_BC, scale_BC, shift_BC


def gradients(
    parts: Tensor, count: int, norm: tuple[Tensor, ...], layers: list[Tensor], saved: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """linear_BC and constant_BC for `apply_gradient`, and the gradients of the norm's and the layers' weight and bias.

    parts_BN2C: of the sums of dz and dz·x. norm: its weight, scale, shift, mean and rstd. saved: mean_BC, hidden_BH
    and gate_BC from `gates`.
    """
    B, number, _, C = parts.shape
    weight, scale, shift, mean, rstd = norm
    mean_BC, hidden_BH, gate_BC = saved
    (hidden, own), blocks = layers[0].shape[:2], blocked(layers[0], C)
    dscale, dshift, dlogit, dq, linear, constant = parts.new_empty(6, B, C)
    dhidden = torch.empty_like(hidden_BH)
    _gate_gradients[(B,)](
        parts, scale, shift, layers[0], layers[2], hidden_BH, gate_BC, dscale, dshift, dlogit, dhidden, dq, number, own,
        hidden, C, *blocks, num_warps=8,
    )  # fmt: skip
    found = [torch.empty_like(tensor) for tensor in (weight, weight, *layers)]
    _parameter_gradients[(triton.cdiv(C, 16),)](
        dscale, dshift, dlogit, dhidden, dq, mean_BC, hidden_BH, gate_BC, scale, shift, weight, mean, rstd,
        linear, constant, *found, B, count, own, hidden, C, 8, blocks[0], 16, num_warps=4,
    )  # fmt: skip
    return linear, constant, *found


def blocked(first: Tensor, C: int) -> tuple[int, int]:
    """Powers of two that cover the hidden layer and all channels."""
    return max(2, triton.next_power_of_2(len(first))), triton.next_power_of_2(C)
