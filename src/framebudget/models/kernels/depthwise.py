"""Depthwise convolutions, channels last: output, input gradient, weight gradient."""

import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_C = 64  # channels of a tile


@triton.jit
def _depthwise(
    x, weight, y, T,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, C: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr,
    STEP: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A tile of y_BTHWC (OH, OW): the sum over the kernel's places, whose weights are (KT·KH·KW, C), of x_BTHWC (H, W).

    STRIDE: pixels of x from one of y to the next. STEP: pixels of y from one of x to the next, where x is the gradient
    of a strided convolution's output and y that of its input; the weights are then reversed. Which places reach a pixel
    of y depends on its position modulo STEP, so one launch computes the pixels at (ROW, COLUMN).
    """
    wide: tl.constexpr = (OW - COLUMN + STEP - 1) // STEP
    high: tl.constexpr = (OH - ROW + STEP - 1) // STEP
    frame = tl.program_id(0)
    p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    t, i, j = frame % T + p * 0, p // wide, p % wide
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for kt in tl.static_range(KT):
        dt = kt - KT // 2
        there = (t + dt >= 0) & (t + dt < T)
        picture = x + (frame + dt).to(tl.int64) * (H * W * C)
        for kh in tl.static_range(KH):
            if (ROW + kh - KH // 2) % STEP == 0:
                h = i * STRIDE + (ROW + kh - KH // 2) // STEP
                for kw in tl.static_range(KW):
                    if (COLUMN + kw - KW // 2) % STEP == 0:
                        w = j * STRIDE + (COLUMN + kw - KW // 2) // STEP
                        inside = there & (h >= 0) & (h < H) & (w >= 0) & (w < W)
                        mask = inside[:, None] & (c < C)[None, :]
                        value = tl.load(picture + (h * W + w)[:, None] * C + c[None, :], mask=mask, other=0)
                        factor = tl.load(weight + ((kt * KH + kh) * KW + kw) * C + c, mask=c < C, other=0)
                        total += value.to(tl.float32) * factor[None, :]
    mask = (p < high * wide)[:, None] & (c < C)[None, :]
    to = (i * STEP + ROW) * OW + j * STEP + COLUMN
    tl.store(y + frame.to(tl.int64) * (OH * OW * C) + to[:, None] * C + c[None, :], total, mask=mask)


@triton.jit
def _depthwise_weight(
    x, dy, parts, frames, T,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, C: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One part of the weights' gradient (KT·KH·KW, C): for one (kt, kh), from every n-th frame of n parts."""
    part, parts_in_all = tl.program_id(0), tl.num_programs(0)
    kt, kh = tl.program_id(1) // KH, tl.program_id(1) % KH
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    left = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    middle = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    right = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    dt = kt - KT // 2
    for frame in range(part, frames, parts_in_all):
        t = frame % T
        if (t + dt >= 0) & (t + dt < T):
            picture = x + (part.to(tl.int64) + (frame - part) + dt) * (H * W * C)
            gradient = dy + (part.to(tl.int64) + (frame - part)) * (OH * OW * C)
            for start in range(0, OH * OW, BLOCK_P):
                p = start + tl.arange(0, BLOCK_P)
                h, w = p // OW * STRIDE + kh - KH // 2, p % OW * STRIDE
                mask = ((p < OH * OW) & (h >= 0) & (h < H))[:, None] & (c < C)[None, :]
                grad = tl.load(gradient + p[:, None] * C + c[None, :], mask=mask, other=0).to(tl.float32)
                place = picture + (h * W + w)[:, None] * C + c[None, :]
                middle += grad * tl.load(place, mask=mask, other=0).to(tl.float32)
                if KW == 3:
                    left += grad * tl.load(place - C, mask=mask & (w > 0)[:, None], other=0).to(tl.float32)
                    right += grad * tl.load(place + C, mask=mask & (w + 1 < W)[:, None], other=0).to(tl.float32)
    to = parts + (part * KT * KH * KW + (kt * KH + kh) * KW) * C + c
    if KW == 3:
        tl.store(to, tl.sum(left, 0), mask=c < C)
        tl.store(to + C, tl.sum(middle, 0), mask=c < C)
        tl.store(to + 2 * C, tl.sum(right, 0), mask=c < C)
    else:
        tl.store(to, tl.sum(middle, 0), mask=c < C)


def depthwise(x_BTHWC: Tensor, weight_KC: Tensor, kernel: tuple[int, int, int], stride: int) -> Tensor:
    """A depthwise convolution, "same" padding, stride 1 in time; weight_KC: (KT·KH·KW, C) float32."""
    H, W = ((size - 1) // stride + 1 for size in x_BTHWC.shape[2:4])
    return _convolved(x_BTHWC, weight_KC, (H, W), kernel, stride, 1)


def depthwise_gradients(
    dy_BTHWC: Tensor, x_BTHWC: Tensor, weight_KC: Tensor, kernel: tuple[int, int, int], stride: int
) -> tuple[Tensor, Tensor]:
    """dx_BTHWC and dweight_KC (float32) of `depthwise`."""
    dx = _convolved(dy_BTHWC, weight_KC.flip(0), x_BTHWC.shape[2:4], kernel, 1, stride)
    B, T, H, W, C = x_BTHWC.shape
    OH, OW = dy_BTHWC.shape[2:4]
    frames = B * T
    number = max(1, min(frames, frames * OH * OW // 2048))
    parts = dy_BTHWC.new_empty(number, len(weight_KC), C, dtype=torch.float32)
    _depthwise_weight[(number, kernel[0] * kernel[1], triton.cdiv(C, 32))](
        x_BTHWC, dy_BTHWC, parts, frames, T, H, W, OH, OW, C, *kernel, stride, 32, 32, num_warps=2
    )  # fmt: skip
    return dx, parts.sum(0)


def _convolved(
    x_BTHWC: Tensor, weight_KC: Tensor, size: tuple[int, int], kernel: tuple[int, int, int], stride: int, step: int
) -> Tensor:
    B, T, H, W, C = x_BTHWC.shape
    y = x_BTHWC.new_empty(B, T, *size, C)
    for row, column in itertools.product(range(step), repeat=2):
        positions = -(-(size[0] - row) // step) * -(-(size[1] - column) // step)
        if positions > 0:
            _depthwise[(B * T, triton.cdiv(positions, 16), triton.cdiv(C, BLOCK_C))](
                x_BTHWC, weight_KC, y, T, H, W, *size, C, *kernel, stride, step, row, column, 16, BLOCK_C, num_warps=2
            )  # fmt: skip
    return y
