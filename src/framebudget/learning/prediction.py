"""Predict a training's test clips: at its own budget, at the study's other budgets, and with frames in other orders."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from framebudget.learning.display import Tell
from framebudget.learning.runtime import prepare
from framebudget.models import NETWORKS, weights
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay
from framebudget.models.views import autocast, logits_of
from framebudget.study import Training
from framebudget.video.dataset import Clips, loader
from framebudget.video.transforms import inputs

ORDERS = ("recorded", "reversed", "shuffled", "still")  # of the frames of a view; still: the middle one, T times


class Predicted(NamedTuple):
    """Two tables with one row per test clip: model, budget, seed, clip, group, label, and

    predictions     the prediction, and a probability for every class
    controls        the prediction at each budget of the study (`at_6`, …), and at the training's own budget with the
                    frames of each view `reversed`, `shuffled` or `still`

    milliseconds    per clip, for its preparation and the network, without decoding: the median over batches
    """

    predictions: pd.DataFrame
    controls: pd.DataFrame
    milliseconds: float


@torch.inference_mode()
def predict(training: Training, tell: Tell) -> Predicted:
    study, test = training.study, training.clips("test")
    prepare(training.seed, training.params.trainer.threads)
    module = NETWORKS[training.network].build(len(study.classes))
    precision = weights.load(module, training.file)["precision"]
    module = for_evaluation(module.to("cuda" if torch.cuda.is_available() else "cpu"))
    siblings = [
        one for one in study.trainings(training.network) if one.seed == training.seed and one.fold == training.fold
    ]
    named, controls = np.array(study.classes, object), {}
    for number, sibling in enumerate(siblings):  # sees the clips at its own budget

        def progress(done: int, before: int = number * len(test)) -> None:
            tell(before + done, len(siblings) * len(test), f"{len(test)} test clips")

        orders = ORDERS if sibling.budget == training.budget else ORDERS[:1]
        found_ONK, took = probabilities(module, precision, sibling, orders, progress)
        controls[f"at_{sibling.budget}"] = named[found_ONK[0].argmax(1)]
        if sibling.budget == training.budget:
            own_ONK, milliseconds = found_ONK, took
    controls |= dict(zip(ORDERS[1:], named[own_ONK[1:].argmax(2)], strict=True))
    facts = {"model": training.network, "budget": training.budget, "seed": training.seed}
    table = pd.DataFrame(facts | {"clip": test["clip"], "group": test["group"], "label": test["class"]})
    table = table.reset_index(drop=True)
    own = pd.DataFrame(own_ONK[0], columns=[f"p_{name}" for name in study.classes])
    predictions = table.assign(prediction=controls[f"at_{training.budget}"]).join(own)
    return Predicted(predictions, table.assign(**controls), milliseconds)


def probabilities(
    module: nn.Module, precision: str, training: Training, orders: tuple[str, ...], progress: Callable[[int], None]
) -> tuple[np.ndarray, float]:
    """probabilities_ONK (O orders) of a training's test clips, with its views, and milliseconds per clip."""
    p, test = training.params, training.clips("test")
    rule, device = p.data.evaluate, next(module.parameters()).device
    replay = Replay(module, p.trainer.cuda_graphs)
    data = Clips(p.folder, test, training.T, training.input, training.seed, rule.views, rule.crops)
    # allocated once: keeping small tensors while large ones are freed would fragment the heap
    probabilities_ONK = np.empty((len(orders), len(test), len(training.study.classes)), np.float32)
    done, took, batch = 0, [], max(1, training.recipe.batch_size // (rule.views * rule.crops))
    for frames_BVTHWC, views, _, positions_B in loader(data, batch, p.workers):
        frames_BVTHWC = frames_BVTHWC.to(device)
        for order, probabilities_NK in zip(orders, probabilities_ONK, strict=True):
            shown_BVTHWC = ordered(frames_BVTHWC, order, training.seed, positions_B)
            begun = time.perf_counter()
            with autocast(precision, device):
                logits_BVK = logits_of(replay, inputs(shown_BVTHWC, views, training.input.crop))
            probabilities_NK[positions_B] = logits_BVK.float().mean(1).softmax(1).cpu()
            took.append((time.perf_counter() - begun) / len(views))
        progress(done := done + len(views))
    return probabilities_ONK, 1000 * statistics.median(took)


def ordered(frames_BVTHWC: Tensor, order: str, seed: int, positions_B: Tensor) -> Tensor:
    """The frames of each view in another order. `shuffled`, never the recorded one, depends on the seed, T, and the
    clip's place among the test clips."""
    B, _, T = frames_BVTHWC.shape[:3]
    if order == "reversed":
        return frames_BVTHWC.flip(2)
    if order == "still":
        return frames_BVTHWC[:, :, T // 2].unsqueeze(2).expand_as(frames_BVTHWC)
    if order == "shuffled":
        orders_BT = [shuffled(T, np.random.default_rng([seed, clip])) for clip in positions_B.tolist()]
        return torch.stack([frames_BVTHWC[clip][:, orders_BT[clip]] for clip in range(B)])
    return frames_BVTHWC


def shuffled(T: int, generator: np.random.Generator) -> np.ndarray:
    """A random order of T frames other than the recorded one, if there is one."""
    while (order := generator.permutation(T)).tolist() == list(range(T)) and T > 1:
        pass
    return order
