"""Load a trained network, ready to predict. MLflow serves models through this module (flavor: pyfunc)."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from framebudget.models import NETWORKS, weights
from framebudget.models.layers import for_evaluation
from framebudget.models.views import logits_of
from framebudget.models.weights import WeightsError
from framebudget.params import Frames, Input, Strict, explain
from framebudget.sources.folder import printable
from framebudget.video.transforms import even_view, inputs

LARGEST = 2**28  # pixels of one window: 64 frames of 2048², for example


class Facts(Strict):
    """The facts that this project's weight files store beside the weights."""

    model: Literal[*NETWORKS]
    frames: Frames
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    input: Input

    @model_validator(mode="after")
    def usable(self) -> "Facts":
        if len(set(self.classes)) < len(self.classes) or any(name != printable(name) for name in self.classes):
            raise ValueError("a class is listed twice, or has characters that control a terminal")
        if self.frames * self.input.short_side**2 > LARGEST:
            raise ValueError(f"{self.frames} frames of {self.input.short_side}² pixels; {LARGEST:,} are allowed in all")
        return self


def load(file: Path, device: str = "cpu") -> tuple[nn.Module, dict]:
    """The network on this device, ready to predict, and its checkpoint with model, frames, classes and input.

    Raises WeightsError.
    """
    checkpoint = weights.read(file)
    try:
        Facts(**{key: checkpoint[key] for key in Facts.model_fields.keys() & checkpoint.keys()})
    except ValidationError as error:
        faults = explain(error).replace("\n", "; ")
        raise WeightsError(f"{file}: not written by a training of this project; {faults}") from None
    model, K = checkpoint["model"], len(checkpoint["classes"])
    head = checkpoint["model_state"].get(NETWORKS[model].head + "weight")
    if not isinstance(head, Tensor) or head.shape[:1] != (K,):  # before building a network of that size
        raise WeightsError(f"{file}: weights of another network; their last layer does not have {K} classes")
    network = NETWORKS[model].build(K)
    weights.load(network, file)
    if not all(value.isfinite().all() for value in network.state_dict().values()):
        raise WeightsError(f"{file}: some weights are not finite; train again with a lower learning rate")
    return for_evaluation(network.to(device)), checkpoint


@torch.inference_mode()
def middle_logits(
    network: Callable[[Tensor], Tensor], frames_BTHWC: np.ndarray, crop: int, device: str = "cpu"
) -> Tensor:
    """logits_BK for the center crop of uint8 frames, which must be at least as large as the crop."""
    frames_BVTHWC = torch.from_numpy(frames_BTHWC)[:, None].to(device)
    view = even_view(*frames_BTHWC.shape[2:4], crop)
    clips_BVCTHW = inputs(frames_BVTHWC, [view] * len(frames_BTHWC), crop)
    return logits_of(network, clips_BVCTHW)[:, 0]


class Served:
    def __init__(self, file: str):
        self.network, self.checkpoint = load(Path(file))

    def predict(self, frames_BTHWC: np.ndarray, params: dict | None = None) -> pd.DataFrame:
        """Probabilities (B, K), one column per class."""
        logits_BK = middle_logits(self.network, frames_BTHWC, self.checkpoint["input"]["crop"])
        return pd.DataFrame(logits_BK.softmax(1).numpy(), columns=self.checkpoint["classes"])


_load_pyfunc = Served  # the name that MLflow calls
