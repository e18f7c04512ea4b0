"""PyTorchVideo's networks at any frame budget: clips_BCTHW -> logits_BK."""

import warnings
from collections.abc import Callable

from torch import nn

warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # fvcore, at import

from framebudget.models import slowfast, x3d  # noqa: E402

BUILD: dict[str, Callable[[int], nn.Module]] = {"x3d_m": x3d.x3d_m, "slowfast_r50": slowfast.slowfast_r50}
HEAD = {"x3d_m": x3d.HEAD, "slowfast_r50": slowfast.HEAD}  # keys that depend on the number of classes
