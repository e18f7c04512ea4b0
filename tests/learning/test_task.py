from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, default_collate

from framebudget.console import UserError
from framebudget.learning import callbacks
from framebudget.learning.callbacks import LastEpoch, Report
from framebudget.learning.task import Classification
from framebudget.models import NETWORKS
from framebudget.params import Train

RECIPE = Train(
    optimizer="SGD", optimizer_args={}, lr=1e-9, weight_decay=0,
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


def seeds(samples: list[tuple]) -> list[int]:
    return [seed for *_, seed in samples]


def fit(network: nn.Module, labels: list, state: Path | None = None, precision="32-true", **recipe) -> Classification:
    """labels: of black clips, or samples. state: where the last epoch is kept; the training goes on from there."""
    black = torch.zeros(1, 3, 2, 4, 4)
    clips = [label if isinstance(label, tuple) else (black, label, i) for i, label in enumerate(labels)]
    task = Classification(network, RECIPE.model_copy(update=recipe))
    batches = DataLoader(
        clips, batch_size=4, collate_fn=lambda samples: (*default_collate(samples)[:2], seeds(samples))
    )
    callbacks = [LastEpoch(state)] if state else []
    half = MixedPrecision("16-mixed", "cpu")  # Lightning would take bfloat16 instead
    pl.Trainer(
        max_epochs=task.recipe.epochs, accelerator="cpu", logger=False, enable_checkpointing=bool(state),
        enable_progress_bar=False, num_sanity_val_steps=0, enable_model_summary=False, callbacks=callbacks,
        **({"plugins": [half]} if precision == "16-mixed" else {"precision": precision}),
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
    with pytest.raises(UserError, match=r"loss is nan in epoch 0, step 0; lower the learning rate"):
        fit(Constant(float("nan")), [0, 1])


def test_training_goes_on_while_accuracy_or_loss_improves_and_stops_after_patience_epochs_without():
    task = fit(Constant(), [0, 1], epochs=9, patience=2, lr=1e-3)
    assert [row["val_loss"] for row in task.curve] == sorted((row["val_loss"] for row in task.curve), reverse=True)
    assert len(task.curve) == 9
    task = fit(Constant(0.0), [0, 1], epochs=9, patience=2)  # the loss is the lowest from the start
    assert len(task.curve) == 3


def test_biases_and_norms_have_no_weight_decay():
    network = NETWORKS["x3d_m"].build(3)
    task = Classification(network, RECIPE.model_copy(update={"weight_decay": 0.1}))
    decayed, others = task.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0)
    named = {id(weight): name for name, weight in network.named_parameters()}
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            among = others if name == "bias" or isinstance(module, nn.BatchNorm3d) else decayed
            assert id(weight) in map(id, among["params"]), named[id(weight)]
    assert len(decayed["params"]) + len(others["params"]) == len(named)


def test_averages_that_nothing_evaluates_are_refused():
    recipe = {"optimizer": "ASGD", "optimizer_args": {"t0": 10}}
    with pytest.raises(UserError, match=r"train\.optimizer_args\.t0: leave it out"):
        Classification(Constant(), RECIPE.model_copy(update=recipe)).configure_optimizers()


def test_of_equally_accurate_epochs_the_one_with_the_lowest_loss_is_kept():
    task = Classification(Constant(), RECIPE)
    rows = [(0.5, 0.1), (0.9, 0.4), (0.9, 0.2), (0.9, 0.3)]
    task.curve = [{"epoch": epoch, "val_accuracy": row[0], "val_loss": row[1]} for epoch, row in enumerate(rows)]
    assert task.best_epoch["epoch"] == 2


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
        ({"optimizer": "AdamW", "optimizer_args": {"foreach": True}}, "train.optimizer: .*`fused` and `foreach`"),
        ({"optimizer": "lr_scheduler"}, "train.optimizer: torch rejects lr_scheduler"),
        ({"scheduler": "ReduceLROnPlateau"}, "train.scheduler: ReduceLROnPlateau"),
        ({"optimizer": "Magic"}, "train.optimizer: torch rejects Magic"),
        ({"optimizer_args": {"momentun": 0.9}}, "train.optimizer: torch rejects SGD.*'momentun'"),
        ({"optimizer_args": {"momentum": -1}}, "train.optimizer: .*Invalid momentum"),
        ({"scheduler_args": {}}, "train.scheduler: torch rejects StepLR.*'step_size'"),
        ({"scheduler_args": {"step_size": 0}}, "train.scheduler: torch rejects StepLR.*by zero"),
    ],
)
def test_what_torch_does_not_take_is_an_error_that_names_the_key(recipe, says):
    with pytest.raises(UserError, match=says):
        Classification(Constant(), RECIPE.model_copy(update=recipe)).try_out()


@pytest.mark.parametrize("name", ["ASGD", "RMSprop", "AdamW"])
def test_any_optimiser_and_schedule_of_torch(name):
    task = fit(Constant(), [0, 1], optimizer=name, scheduler="CosineAnnealingLR", scheduler_args={"T_max": 2})
    assert [row["lr"] for row in task.curve] == pytest.approx([1e-9, 0.5e-9])


@pytest.mark.parametrize(("stages", "norms"), [(2, False), (0, True)])
def test_frozen_stages_keep_their_weights_and_frozen_norms_their_statistics(stages, norms):
    network = NETWORKS["x3d_m"].build(2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    clips = [(torch.randn(1, 3, 2, 32, 32), i, i) for i in range(2)]
    fit(network, clips, epochs=2, lr=0.1, frozen_stages=stages, frozen_norms=norms)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.split(".")[1] for key in changed} == set("012345"[stages:])
    assert any("running" in key for key in changed) != norms


def test_a_network_that_is_all_frozen_is_an_error():
    with pytest.raises(UserError, match=r"train\.frozen_stages: 6 freezes the whole network, which has 6 stages"):
        Classification(NETWORKS["x3d_m"].build(2), RECIPE.model_copy(update={"frozen_stages": 6}))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", ["SGD", "ASGD"])  # torch has a fused version of the first alone
def test_gradients_are_clipped_in_every_precision(name, precision):
    network = Constant()
    fit(network, [0], epochs=1, optimizer=name, lr=1.0, gradient_clip=0.01, precision=precision)
    assert network.logit.item() == pytest.approx(1.01, rel=1e-4)  # the gradient was -0.27


@pytest.mark.parametrize("doubly", [False, True])
def test_the_published_protocol_takes_the_softmax_twice(doubly):
    task = Classification(Constant(2.0), RECIPE, doubly)
    logits_BK = torch.tensor([[2.0, 0.0]])
    expected = nn.functional.cross_entropy(logits_BK.softmax(1) if doubly else logits_BK, torch.tensor([1]))
    batch = (torch.zeros(1, 1, 3, 2, 4, 4), torch.tensor([1]), [0])
    assert task.step(batch, "val").item() == pytest.approx(expected.item())


def test_a_long_validation_is_not_silent(monkeypatch):
    now, told = [100.0], []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    report = Report(lambda *said: told.append(said))
    trainer = SimpleNamespace(is_global_zero=True, current_epoch=2, max_epochs=5)
    for _ in range(3):
        report.on_validation_batch_end(trainer)
        now[0] += 0.3
    assert told == [(3, 5, "")] * 2


def test_the_state_is_saved_when_a_kill_in_the_next_epoch_would_cost_too_much(tmp_path, monkeypatch):
    """Epochs of 10 s, and a kill may cost 25 s."""
    now, saved = [0.0], []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    trainer = SimpleNamespace(
        is_global_zero=True, strategy=SimpleNamespace(broadcast=lambda value: value),
        save_checkpoint=lambda path: saved.append(now[0]) or path.touch(),
    )  # fmt: skip
    last = LastEpoch(tmp_path / "last.ckpt", 25)
    last.on_train_start()
    while now[0] < 70:
        now[0] += 10
        last.on_train_epoch_end(trainer)
    assert saved == [20, 40, 60]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
