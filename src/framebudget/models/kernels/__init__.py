"""Triton kernels for what limits X3D and SlowFast on a GPU: depthwise convolutions, and BatchNorm with its activation.

All tensors are channels last in memory and float32, bfloat16 or float16; sums are accumulated in float32, and
BatchNorm's are combined in float64. No kernel uses atomics, so the same input gives the same bytes. On a CPU they run
in Triton's interpreter (TRITON_INTERPRET=1), which is how they are tested without a GPU.

Shape suffixes: B clips, T frames, H, W pixels, C channels, P = T·H·W positions.
"""

NONE, RELU, SILU = 0, 1, 2  # activations, as the kernels number them


def tile(C: int, elements: int) -> tuple[int, int]:
    """Positions and channels of a tile of this many elements: channels cover C, up to 64. Both are powers of two."""
    channels = min(64, max(8, 1 << (C - 1).bit_length()))
    return elements // channels, channels
