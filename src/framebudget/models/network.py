"""What the rest of the project needs to know about a network."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"


@dataclass(frozen=True)
class Network:
    """One architecture: `NETWORK` in its module.

    key      in params.yaml, on the command line and in every table
    name     as its paper writes it
    build    number of classes K -> clips_BCTHW -> logits_BK, for any number of frames; its stages are `blocks`, the
             last of which is the head
    head     prefix of the state dict keys that depend on the number of classes
    zoo      URL of its Kinetics-400 weights (`weights: kinetics400`), if there are any
    softmax  its stock head ends in a softmax, in training too: the published protocol trains through it
    cpu_bfloat16  it trains faster in bfloat16 on a CPU with AVX512-BF16 (benchmarks/training_step.py)
    """

    key: str
    name: str
    build: Callable[[int], nn.Module]
    head: str
    zoo: str | None = None
    softmax: bool = False
    cpu_bfloat16: bool = False
