"""The cost of a network: its parameters, and the multiply-adds of one view."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from framebudget.models import NETWORKS


def cost(model: str, classes: int, T: int, crop: int) -> tuple[float, float]:
    """(million parameters, 10⁹ multiply-adds) for one view of T frames at crop×crop pixels.

    Multiply-adds of convolutions and matrix products, which X3D's and SlowFast's papers call FLOPs. (PyTorchVideo's
    model zoo adds five for every element in a norm of X3D: 6.72 instead of 6.18 at 16 frames of 256 pixels.)
    """
    with torch.device("meta"):  # tensors without storage
        network = NETWORKS[model].build(classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, T, crop, crop))
    return sum(weight.numel() for weight in network.parameters()) / 1e6, counter.get_total_flops() / 2e9
