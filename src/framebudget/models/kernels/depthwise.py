"""Depthwise convolutions, channels last: output, input gradient, weight gradient."""

import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from framebudget.models.kernels import tile

SIZES = "T", "H", "W", "OH", "OW", "row", "frames", "P"  # one compiled kernel takes all


@triton.jit(do_not_specialize=SIZES)
def _depthwise(  # noqa: C901 - most branches are decided when it is compiled
    x, weight, y, T, H, W, OH, OW, row, C: tl.constexpr,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr,
    COLUMN: tl.constexpr, FRAMES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """FRAMES ≤ 4 frames of a tile of y_BTHWC (OH, OW): sums over the kernel's places of x_BTHWC (H, W).

    A value of x is loaded once for all frames of y that it reaches. weight: (KT·KH·KW, C).
    STRIDE: pixels of x from one of y to the next. STEP: pixels of y from one of x to the next, where x is the gradient
    of a strided convolution's output and y that of its input; the weights are then reversed. Which places reach a pixel
    of y depends on its position modulo STEP, so one launch computes the pixels at (row, COLUMN).
    """
    wide = (OW - COLUMN + STEP - 1) // STEP
    high = (OH - row + STEP - 1) // STEP
    spans = tl.cdiv(T, FRAMES)
    clip, start = (tl.program_id(1) // spans).to(tl.int64), tl.program_id(1) % spans * FRAMES
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    i, j, frame = p // wide, p % wide, start + p * 0
    y0 = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    y1, y2, y3 = y0, y0, y0
    for kh in range((KH // 2 + STEP - row) % STEP, KH, STEP):
        h = i * STRIDE + (row + kh - KH // 2) // STEP
        for kw in tl.static_range((KW // 2 + STEP - COLUMN) % STEP, KW, STEP):
            w = j * STRIDE + (COLUMN + kw - KW // 2) // STEP
            mask = ((h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None] & (c < C)[None, :]
            at = x + (clip * T + start - KT // 2) * H * W * C + (h * W + w)[:, None] * C + c[None, :]
            for n in tl.static_range(FRAMES + KT - 1):
                t = (frame + n - KT // 2)[:, None]
                value = tl.load(at + n * H * W * C, mask=mask & (t >= 0) & (t < T), other=0).to(tl.float32)
                for kt in tl.static_range(KT):
                    if (n - kt >= 0) & (n - kt < FRAMES):
                        factor = tl.load(weight + ((kt * KH + kh) * KW + kw) * C + c, mask=c < C, other=0)
                        if n - kt == 0:
                            y0 += value * factor[None, :]
                        elif n - kt == 1:
                            y1 += value * factor[None, :]
                        elif n - kt == 2:
                            y2 += value * factor[None, :]
                        else:
                            y3 += value * factor[None, :]
    mask = (p < high * wide)[:, None] & (c < C)[None, :]
    place = (i * STEP + row) * OW + j * STEP + COLUMN
    to = y + (clip * T + start) * OH * OW * C + place[:, None] * C + c[None, :]
    tl.store(to, y0, mask=mask)
    if FRAMES > 1:
        tl.store(to + OH * OW * C, y1, mask=mask & (frame + 1 < T)[:, None])
    if FRAMES > 2:
        tl.store(to + 2 * OH * OW * C, y2, mask=mask & (frame + 2 < T)[:, None])
    if FRAMES > 3:
        tl.store(to + 3 * OH * OW * C, y3, mask=mask & (frame + 3 < T)[:, None])


@triton.jit(do_not_specialize=SIZES)
def _row_of_weights(
    x, dy, parts, T, H, W, OH, OW, C: tl.constexpr, STRIDE: tl.constexpr,
    PART: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One part of a 3×3×3 kernel's gradient (27, C): for one kh, from PART positions of a clip in all its frames.

    Over time it keeps the gradients of three frames of y, which a frame of x meets.
    """
    spans = tl.cdiv(OH * OW, PART)
    clip, first = (tl.program_id(0) // spans).to(tl.int64), tl.program_id(0) % spans * PART
    kh = tl.program_id(1)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    sum00 = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    sum01, sum02, sum10, sum11, sum12, sum20, sum21, sum22 = (
        sum00, sum00, sum00, sum00, sum00, sum00, sum00, sum00
    )  # fmt: skip
    for start in range(0, PART, BLOCK_P):
        p = first + start + tl.arange(0, BLOCK_P)
        h, w = p // OW * STRIDE + kh - 1, p % OW * STRIDE
        inside = ((p < OH * OW) & (h >= 0) & (h < H))[:, None] & (c < C)[None, :]
        left, right = inside & (w > 0)[:, None], inside & (w + 1 < W)[:, None]
        of_dy = dy + clip * T * OH * OW * C + p[:, None] * C + c[None, :]
        of_x = x + clip * T * H * W * C + (h * W + w)[:, None] * C + c[None, :]
        before = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        now = tl.load(of_dy, mask=inside, other=0).to(tl.float32)
        for t in range(T):
            more = inside & (p * 0 + t + 1 < T)[:, None]
            after = tl.load(of_dy + (t + 1) * OH * OW * C, mask=more, other=0).to(tl.float32)
            value = tl.load(of_x + t * H * W * C - C, mask=left, other=0).to(tl.float32)
            sum00 += after * value
            sum10 += now * value
            sum20 += before * value
            value = tl.load(of_x + t * H * W * C, mask=inside, other=0).to(tl.float32)
            sum01 += after * value
            sum11 += now * value
            sum21 += before * value
            value = tl.load(of_x + t * H * W * C + C, mask=right, other=0).to(tl.float32)
            sum02 += after * value
            sum12 += now * value
            sum22 += before * value
            before, now = now, after
    to = parts + (tl.program_id(0) * 27 + kh * 3) * C + c
    tl.store(to, tl.sum(sum00, 0), mask=c < C)
    tl.store(to + C, tl.sum(sum01, 0), mask=c < C)
    tl.store(to + 2 * C, tl.sum(sum02, 0), mask=c < C)
    tl.store(to + 9 * C, tl.sum(sum10, 0), mask=c < C)
    tl.store(to + 10 * C, tl.sum(sum11, 0), mask=c < C)
    tl.store(to + 11 * C, tl.sum(sum12, 0), mask=c < C)
    tl.store(to + 18 * C, tl.sum(sum20, 0), mask=c < C)
    tl.store(to + 19 * C, tl.sum(sum21, 0), mask=c < C)
    tl.store(to + 20 * C, tl.sum(sum22, 0), mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def _weight_in_time(
    x, dy, parts, frames, T, P, C: tl.constexpr, KT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    """One part of a KT×1×1 kernel's gradient (KT, C): for one kt, from every n-th frame, of P positions, of n parts."""
    part, parts_in_all = tl.program_id(0), tl.num_programs(0)
    dt = tl.program_id(1) - KT // 2
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for frame in range(part, frames, parts_in_all):
        t = frame % T
        if (t + dt >= 0) & (t + dt < T):
            of_dy = (part.to(tl.int64) + (frame - part)) * P * C
            for start in range(0, P, BLOCK_P):
                p = start + tl.arange(0, BLOCK_P)
                mask = (p < P)[:, None] & (c < C)[None, :]
                at = of_dy + p[:, None] * C + c[None, :]
                grad = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
                total += grad * tl.load(x + at + dt * P * C, mask=mask, other=0).to(tl.float32)
    tl.store(parts + (part * KT + tl.program_id(1)) * C + c, tl.sum(total, 0), mask=c < C)


def depthwise(x_BTHWC: Tensor, weight_KC: Tensor, kernel: tuple[int, int, int], stride: int) -> Tensor:
    """A depthwise convolution, "same" padding, stride 1 in time; weight_KC: (KT·KH·KW, C) float32."""
    H, W = ((size - 1) // stride + 1 for size in x_BTHWC.shape[2:4])
    return _convolved(x_BTHWC, weight_KC, (H, W), kernel, stride, 1)


def depthwise_gradients(
    dy_BTHWC: Tensor, x_BTHWC: Tensor, weight_KC: Tensor, kernel: tuple[int, int, int], stride: int
) -> tuple[Tensor, Tensor]:
    """dx_BTHWC and dweight_KC (float32) of `depthwise`, whose kernel is 3×3×3 or k×1×1."""
    dx = _convolved(dy_BTHWC, weight_KC.flip(0), x_BTHWC.shape[2:4], kernel, 1, stride)
    B, T, H, W, C = x_BTHWC.shape
    OH, OW = dy_BTHWC.shape[2:4]
    if kernel == (3, 3, 3):
        positions, channels = tile(C, 1024)
        part = max(positions, 128 if OH * OW > 512 else 32)
        number = B * triton.cdiv(OH * OW, part)
        parts = dy_BTHWC.new_empty(number, 27, C, dtype=torch.float32)
        _row_of_weights[(number, 3, triton.cdiv(C, channels))](
            x_BTHWC, dy_BTHWC, parts, T, H, W, OH, OW, C, stride, part, positions, channels, num_warps=4
        )
    else:
        number = max(1, min(B * T, B * T * H * W // 2048))
        parts = dy_BTHWC.new_empty(number, kernel[0], C, dtype=torch.float32)
        _weight_in_time[(number, kernel[0], triton.cdiv(C, 32))](
            x_BTHWC, dy_BTHWC, parts, B * T, T, H * W, C, kernel[0], 32, 32, num_warps=2
        )  # fmt: skip
    return dx, parts.sum(0)


def _convolved(
    x_BTHWC: Tensor, weight_KC: Tensor, size: tuple[int, int], kernel: tuple[int, int, int], stride: int, step: int
) -> Tensor:
    B, T, H, W, C = x_BTHWC.shape
    y, frames, (positions, channels) = x_BTHWC.new_empty(B, T, *size, C), min(T, 4), tile(C, 1024)
    for row, column in itertools.product(range(step), repeat=2):
        pixels = -(-(size[0] - row) // step) * -(-(size[1] - column) // step)
        if pixels > 0:
            _depthwise[(triton.cdiv(pixels, positions), B * triton.cdiv(T, frames), triton.cdiv(C, channels))](
                x_BTHWC, weight_KC, y, T, H, W, *size, row, C, *kernel, stride, step, column, frames,
                positions, channels, num_warps=4,
            )  # fmt: skip
    return y
