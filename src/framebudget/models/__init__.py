"""PyTorchVideo's networks at any frame budget: clips_BCTHW -> logits_BK."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, at import

from framebudget.models import slowfast, x3d  # noqa: E402

BUILD: dict[str, Callable[[int], nn.Module]] = {
    "x3d_m": x3d.x3d,
    "x3d_s": x3d.x3d,  # the same network, published for 13 frames of 160 pixels
    "x3d_xs": x3d.x3d,  # and for 4
    "slowfast_r50": slowfast.slowfast_r50,
}
HEAD = {
    name: slowfast.HEAD if name == "slowfast_r50" else x3d.HEAD for name in BUILD
}  # keys that depend on the classes


class Network(NamedTuple):
    key: str
    name: str  # as printed
    build: Callable[[int], nn.Module]
    head: str


NETWORKS = {
    "x3d_m": Network("x3d_m", "X3D-M", x3d.x3d, x3d.HEAD),
    "slowfast_r50": Network("slowfast_r50", "SlowFast R50", slowfast.slowfast_r50, slowfast.HEAD),
}
