from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from framebudget import models
from framebudget.learning.task import Classification
from framebudget.params import Train
from framebudget.train import LastEpoch

RECIPE = Train(
    weights=None, optimizer="SGD", optimizer_args={}, lr=1e-9, weight_decay=0,
    scheduler="StepLR", scheduler_args={"step_size": 1, "gamma": 0.5}, epochs=2, patience=5, batch_size=4,
    label_smoothing=0, gradient_clip=None, frozen_stages=0, frozen_norms=False,
)  # fmt: skip


class Constant(nn.Module):
    """Always class 0, with the given logit."""

    def __init__(self, logit: float = 1.0):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, clips_BCTHW):
        return torch.stack([self.logit.expand(len(clips_BCTHW)), torch.zeros(len(clips_BCTHW))], 1)


def fit(network: nn.Module, labels: list[int], state: Path | None = None, **recipe) -> Classification:
    """state: where the last epoch is kept; the training goes on from what is there."""
    clips = [(torch.zeros(1, 3, 2, 4, 4), label, i) for i, label in enumerate(labels)]
    task = Classification(network, RECIPE.model_copy(update=recipe))
    batches = DataLoader(clips, batch_size=4)
    callbacks = [LastEpoch(state)] if state else []
    pl.Trainer(
        max_epochs=task.recipe.epochs, accelerator="cpu", logger=False, enable_checkpointing=bool(state),
        enable_progress_bar=False, num_sanity_val_steps=0, enable_model_summary=False, callbacks=callbacks,
    ).fit(task, batches, batches, ckpt_path=callbacks[0].found if state else None, weights_only=True)  # fmt: skip
    return task


def test_means_over_an_epoch_weigh_every_clip_the_same():
    """Batches of 4 and 1: accuracy is 2/5, not the mean 1/4 of the batches' 2/4 and 0/1."""
    task = fit(Constant(), [0, 0, 1, 1, 1])
    right, wrong = torch.log1p(torch.exp(torch.tensor([-1.0, 1.0]))).tolist()
    for row in task.curve:
        assert row["val_accuracy"] == row["train_accuracy"] == pytest.approx(0.4)
        assert row["val_loss"] == pytest.approx((2 * right + 3 * wrong) / 5, rel=1e-5)


def test_the_curve_has_a_row_an_epoch_with_the_rate_of_that_epoch():
    task = fit(Constant(), [0, 1])
    assert [row["epoch"] for row in task.curve] == [0, 1]
    assert [row["lr"] for row in task.curve] == pytest.approx([1e-9, 0.5e-9])


def test_a_loss_that_is_no_number_stops_the_training_and_says_where():
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 0, step 0; lower the learning rate"):
        fit(Constant(float("nan")), [0, 1])


def test_training_stops_after_patience_epochs_without_a_better_accuracy_and_keeps_the_first_of_equal_ones():
    task = fit(Constant(), [0, 1], epochs=9, patience=2, lr=1e-3)
    assert len(task.curve) == 3
    first = fit(Constant(), [0, 1], epochs=1, lr=1e-3)
    assert task.best["logit"] == first.best["logit"] != task.network.logit


def test_killed_after_its_last_epoch_a_training_does_not_take_another(tmp_path):
    stopped = fit(Constant(), [0, 1], tmp_path / "last.ckpt", epochs=9, patience=2)
    again = fit(Constant(), [0, 1], tmp_path / "last.ckpt", epochs=9, patience=2)
    assert again.curve == stopped.curve
    assert torch.equal(again.best["logit"], stopped.best["logit"])


def test_label_smoothing_is_torchs():
    (row,) = fit(Constant(), [0, 0], epochs=1, label_smoothing=0.2).curve
    right, wrong = torch.log1p(torch.exp(torch.tensor([-1.0, 1.0]))).tolist()
    assert row["val_loss"] == pytest.approx(0.9 * right + 0.1 * wrong, rel=1e-5)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"optimizer": "Magic"}, "train.optimizer: torch's Magic"),
        ({"optimizer_args": {"momentun": 0.9}}, "train.optimizer: torch's SGD.*'momentun'"),
        ({"optimizer_args": {"momentum": -1}}, "train.optimizer: .*Invalid momentum"),
        ({"scheduler_args": {}}, "train.scheduler: torch's StepLR.*'step_size'"),
    ],
)
def test_what_torch_does_not_take_is_an_error_that_names_the_key(recipe, says):
    with pytest.raises(ValueError, match=says):
        Classification(Constant(), RECIPE.model_copy(update=recipe)).configure_optimizers()


@pytest.mark.parametrize("name", ["ASGD", "RMSprop", "AdamW"])
def test_any_optimiser_and_schedule_of_torch(name):
    task = fit(Constant(), [0, 1], optimizer=name, scheduler="CosineAnnealingLR", scheduler_args={"T_max": 2})
    assert [row["lr"] for row in task.curve] == pytest.approx([1e-9, 0.5e-9])


def test_frozen_stages_keep_their_weights_and_frozen_norms_their_statistics():
    network = models.BUILD["x3d_m"](2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    task = Classification(network, RECIPE.model_copy(update={"frozen_stages": 2, "frozen_norms": True, "lr": 0.1}))
    assert not any(module.training for module in task.train().modules() if isinstance(module, nn.BatchNorm3d))
    optimizer = task.configure_optimizers()["optimizer"]
    task.step((torch.randn(2, 1, 3, 2, 32, 32), torch.arange(2), [1, 2]), "train").backward()
    optimizer.step()
    changed = {key.split(".")[1] for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"2", "3", "4", "5"}
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before if "running" in key)
