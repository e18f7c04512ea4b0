"""How much memory a training needs."""

import torch
from torch.autograd.graph import saved_tensors_hooks

from framebudget.models import NETWORKS
from framebudget.models.views import autocast
from framebudget.study import Training

IMPORTED = 0.8  # GB: torch, Lightning, MLflow and what they import, and one process that reads clips
COPIES = 5  # the weights, their gradients, two moments of the optimizer, and the weights of the best epoch


def needed(training: Training) -> float:
    """GB that a training needs on the CPU: its activations, measured on two clips, and copies of its weights.

    At the peak, gradients take another quarter of the activations. tests/commands/test_memory.py compares the estimate
    with the memory of real training steps.
    """
    network, (T, crop) = NETWORKS[training.network].build(2), (training.T, training.input.crop)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), autocast(training.precision, torch.device("cpu")):
        logits = network(torch.zeros(2, 3, T, crop, crop))  # BatchNorm may refuse one clip
    activations = sum(size for pointer, size in kept.items() if pointer not in weights) / len(logits)
    copied = COPIES * sum(weight.nbytes for weight in network.parameters())
    return IMPORTED + (1.25 * training.recipe.batch_size * activations + copied) / 1e9
