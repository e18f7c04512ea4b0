import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from framebudget.learning.task import Classification
from framebudget.params import Train

RECIPE = Train(weights=None, optimizer="SGD", lr=1e-9, weight_decay=0, step_size=1, gamma=0.5, epochs=2, patience=5,
               batch_size=4)  # fmt: skip


class Constant(nn.Module):
    """Always class 0, with the given logit."""

    def __init__(self, logit: float = 1.0):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(logit))

    def forward(self, clips_BCTHW):
        return torch.stack([self.logit.expand(len(clips_BCTHW)), torch.zeros(len(clips_BCTHW))], 1)


def fit(network: nn.Module, labels: list[int]) -> Classification:
    clips = [(torch.zeros(1, 3, 2, 4, 4), label) for label in labels]
    task = Classification(network, RECIPE)
    batches = DataLoader(clips, batch_size=4)
    pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        num_sanity_val_steps=0, enable_model_summary=False,
    ).fit(task, batches, batches)  # fmt: skip
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
