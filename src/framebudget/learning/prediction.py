"""The predictions of one trained network."""

import numpy as np
import pandas as pd
import torch

from framebudget.learning.display import Tell
from framebudget.learning.runtime import prepare
from framebudget.models import NETWORKS, weights
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay
from framebudget.models.views import autocast, logits_of
from framebudget.study import Training
from framebudget.video.dataset import Clips, loader
from framebudget.video.transforms import inputs


@torch.inference_mode()
def predict(training: Training, tell: Tell) -> pd.DataFrame:
    """One row for every test clip: its label, the network's prediction, and a probability for every class."""
    study, p, test = training.study, training.params, training.clips("test")
    prepare(training.seed, p.trainer.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = NETWORKS[training.network].build(len(study.classes))
    precision = weights.load(module, training.file)["precision"]
    replay = Replay(for_evaluation(module.to(device)))
    rule = p.data.evaluate
    data = Clips(p.folder, test, training.T, training.input, training.seed, rule.views, rule.crops)
    # allocated once: small tensors that are kept between large ones that are freed would fragment the heap
    probabilities_NK = np.empty((len(test), len(study.classes)), np.float32)
    done = 0
    for frames_BVTHWC, views, _, positions_B in loader(data, training.recipe.batch_size, p.workers):
        with autocast(precision, device):
            logits_BVK = logits_of(replay, inputs(frames_BVTHWC.to(device), views, training.input.crop))
        probabilities_NK[positions_B] = logits_BVK.float().mean(1).softmax(1).cpu()
        tell(done := done + len(views), len(test), f"{len(test)} test clips")
    table = test[["clip", "group"]].reset_index(drop=True)
    table.insert(0, "model", training.network)
    table.insert(1, "budget", training.budget)
    table.insert(2, "seed", training.seed)
    table["label"] = test["class"].to_numpy()
    table["prediction"] = [study.classes[k] for k in probabilities_NK.argmax(1)]
    return table.join(pd.DataFrame(probabilities_NK, columns=[f"p_{name}" for name in study.classes]))
