"""Weight files: `{"model_state": {key: tensor}}`, PyTorchVideo's own layout, for its files and for ours."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from framebudget.console import UserError, explanation, new_file


class WeightsError(UserError):
    """A weight file that cannot be used. The message names the file and what differs."""


def unpickled(path: Path) -> dict:
    """Load what torch.save wrote, onto the CPU. Never runs code from the file (`weights_only`). Raises WeightsError."""
    try:
        if zipfile.is_zipfile(path):  # every file since torch 1.6
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("compressed")  # torch never compresses, and a few bytes could fill the memory
                if damaged := archive.testzip():  # torch does not verify checksums
                    raise ValueError(f"checksum of {damaged}")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such weight file") from None
    except Exception as error:  # a damaged pickle can raise any Python error
        if explanation(error):  # of the machine; but a string in a damaged pickle may ask for any memory
            if isinstance(error, OSError):
                raise
            raise WeightsError(f"{path}: too little memory to load it, or damaged") from None
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise WeightsError(f"{path}: not a PyTorch checkpoint, or damaged ({why})") from None


def read(path: Path) -> dict:
    """The checkpoint: `model_state`, tensors by their keys, and whatever else it holds. Raises WeightsError."""
    checkpoint = unpickled(path)
    state = checkpoint.get("model_state")
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f'{path}: not a checkpoint of PyTorchVideo, which holds {{"model_state": …}}')
    return checkpoint


def load(network: nn.Module, path: Path, head: str | None = None) -> dict:
    """Load a weight file strictly. Keys that begin with `head` keep their initial values. Returns the checkpoint.

    Raises WeightsError.
    """
    checkpoint = read(path)
    own, given = network.state_dict(), checkpoint["model_state"]
    if head:
        own = {key: value for key, value in own.items() if not key.startswith(head)}
        given = {key: value for key, value in given.items() if not key.startswith(head)}
    differing = {
        "missing": own.keys() - given.keys(),
        "unexpected": given.keys() - own.keys(),
        "of another shape": {key for key in own.keys() & given.keys() if not alike(own[key], given[key])},
    }
    faults = [f"{len(keys)} {kind} ({', '.join(sorted(keys)[:3])}, …)" for kind, keys in differing.items() if keys]
    if faults:
        raise WeightsError(f"{path}: weights of another network; keys: {'; '.join(faults)}")
    network.load_state_dict(given, strict=not head)
    return checkpoint


def alike(own: Tensor, given: object) -> bool:
    """Whether a value from a file fits: a plain tensor of the same shape, real or complex like our own."""
    plain = isinstance(given, Tensor) and given.layout == torch.strided and given.device == own.device
    return plain and given.shape == own.shape and given.is_complex() == own.is_complex() and not given.is_quantized


def save(path: Path, network: nn.Module, **facts: object) -> None:
    """Write the weights and plain facts about them, whole or not at all. The same content gives the same bytes."""
    state = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    with new_file(path) as unfinished, unfinished.open("wb") as file:  # torch writes a path's name into the archive
        torch.save({"model_state": state} | facts, file)
