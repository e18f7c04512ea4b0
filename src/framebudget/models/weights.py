"""Weight files: `{"model_state": {key: tensor}}`, PyTorchVideo's own layout, for its files and for ours."""

import pickle
from pathlib import Path

import torch
from torch import nn


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file and what differs."""


def read(path: Path) -> dict:
    """The checkpoint, on the CPU. No code of the file is run (`weights_only`). Raises WeightsError."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weight file") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a PyTorch checkpoint ({type(error).__name__})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model_state"), dict):
        raise WeightsError(f'{path}: not a checkpoint of PyTorchVideo, which holds {{"model_state": …}}')
    return checkpoint


def load(network: nn.Module, path: Path, head: str | None = None) -> None:
    """Load a weight file strictly, but for the keys that begin with `head`, which keep their initial values."""
    own, given = network.state_dict(), read(path)["model_state"]
    if head:
        own = {key: value for key, value in own.items() if not key.startswith(head)}
        given = {key: value for key, value in given.items() if not key.startswith(head)}
    faults = {
        "missing": own.keys() - given.keys(),
        "unexpected": given.keys() - own.keys(),
        "of another shape": {
            key for key in own.keys() & given.keys() if own[key].shape != getattr(given[key], "shape", None)
        },
    }
    said = [f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])}, …)" for kind, keys in faults.items() if keys]
    if said:
        raise WeightsError(f"{path}: weights of another network; keys: {'; '.join(said)}")
    network.load_state_dict(given, strict=not head)


def save(path: Path, network: nn.Module, **facts: object) -> None:
    """Write the weights and plain facts about them; the same content gives the same bytes."""
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    partial = path.with_name(path.stem + ".partial")
    with partial.open("wb") as file:  # a file object, for torch writes the name of a path into the archive
        torch.save({"model_state": state} | facts, file)
    partial.replace(path)
