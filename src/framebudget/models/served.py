"""What MLflow calls to serve a network that a training has logged (the python_function flavour)."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from framebudget import models
from framebudget.models import weights
from framebudget.models.layers import for_evaluation
from framebudget.models.views import logits_of
from framebudget.video.transforms import even_view, inputs


class Served:
    def __init__(self, file: Path):
        checkpoint = weights.read(file)
        self.classes, self.crop = checkpoint["classes"], checkpoint["input"]["crop"]
        self.network = models.BUILD[checkpoint["model"]](len(self.classes))
        weights.load(self.network, file)
        for_evaluation(self.network)

    @torch.inference_mode()
    def predict(self, frames_BTHWC: np.ndarray, params: dict | None = None) -> pd.DataFrame:
        """Probabilities (B, K), a column a class, of uint8 frames that are at least as large as the crop."""
        view = even_view(*frames_BTHWC.shape[2:4], self.crop)
        clips_BVCTHW = inputs(torch.from_numpy(frames_BTHWC)[:, None], [view] * len(frames_BTHWC), self.crop)
        return pd.DataFrame(logits_of(self.network, clips_BVCTHW).mean(1).softmax(1).numpy(), columns=self.classes)


def _load_pyfunc(file: str) -> Served:
    return Served(Path(file))
