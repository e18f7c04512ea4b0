"""The Lightning module: one step, its metrics, and early stopping."""

import inspect
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torchmetrics import MeanMetric

from framebudget.console import UserError
from framebudget.models.layers import ClipDropout
from framebudget.models.replay import Replay
from framebudget.models.views import logits_of
from framebudget.params import Train


def merit(row: dict) -> tuple[float, float]:
    """How good an epoch is. The loss breaks ties, because a network soon recognizes all of a few validation clips."""
    return row["val_accuracy"], -row["val_loss"]


class Classification(pl.LightningModule):
    """Cross-entropy on logits. Means over an epoch weight every clip equally.

    doubly: take a softmax before the cross-entropy, as one does with PyTorchVideo's X3D, whose head ends in a softmax.
    graphs: whether a GPU may replay steps as CUDA graphs.
    curve: one row per epoch. best: the network's weights after the epoch with the best validation accuracy; of several,
    the one with the lowest validation loss. A checkpoint contains both.
    """

    def __init__(self, network: nn.Module, recipe: Train, doubly: bool = False, graphs: bool = True):
        super().__init__()
        self.network, self.recipe, self.doubly = network, recipe, doubly
        self.replay = Replay(network, graphs)
        self.dropouts = [module for module in network.modules() if isinstance(module, ClipDropout)]
        names = "train_loss", "train_accuracy", "val_loss", "val_accuracy"
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})
        self.curve: list[dict] = []
        self.best: dict[str, Tensor] = {}
        frozen = nn.ModuleList(network.blocks[: recipe.frozen_stages] if recipe.frozen_stages else [])
        frozen.requires_grad_(False)
        if not any(weight.requires_grad for weight in network.parameters()):
            stages = f"{recipe.frozen_stages} freezes the whole network, which has {len(network.blocks)} stages"
            raise UserError(f"train.frozen_stages: {stages}")
        within = (network if recipe.frozen_norms else frozen).modules()
        self.frozen_norms = [module for module in within if isinstance(module, nn.BatchNorm3d)]
        self.train()  # Lightning keeps each module's mode as it finds it

    def train(self, mode: bool = True) -> "Classification":
        super().train(mode)
        for norm in self.frozen_norms:
            norm.eval()
        return self

    def step(self, batch: tuple[Tensor, Tensor, list[int]], subset: str) -> Tensor:
        clips_BVCTHW, labels_B, seeds = batch
        for dropout in self.dropouts:
            dropout.seeds = seeds
        logits_BK = logits_of(self.replay, clips_BVCTHW).mean(1).float()
        if self.doubly:
            logits_BK = logits_BK.softmax(1)
        loss = F.cross_entropy(logits_BK, labels_B, label_smoothing=self.recipe.label_smoothing)
        if not loss.isfinite():
            raise UserError(
                f"the {subset} loss is {loss.item()} in epoch {self.current_epoch}, step {self.global_step}; "
                f"lower the learning rate, train.lr, now {self.recipe.lr}"
            )
        hits_B = (logits_BK.argmax(1) == labels_B).float()
        self.means[f"{subset}_loss"].update(loss.detach(), len(labels_B))
        self.means[f"{subset}_accuracy"].update(hits_B)
        return loss

    def on_train_start(self) -> None:
        self.trainer.should_stop = self.enough()  # if it was killed after its last epoch

    def on_train_epoch_start(self) -> None:
        self.lr = self.optimizers().param_groups[0]["lr"]  # at validation, the scheduler has already stepped
        self.start, self.clips = time.perf_counter(), 0

    def training_step(self, batch: tuple[Tensor, Tensor, list[int]]) -> Tensor:
        self.clips += len(batch[1]) * self.trainer.world_size
        return self.step(batch, "train")

    def on_validation_epoch_start(self) -> None:
        self.seconds = time.perf_counter() - self.start

    def validation_step(self, batch: tuple[Tensor, Tensor, list[int]]) -> None:
        self.step(batch, "val")

    def on_validation_epoch_end(self) -> None:  # Lightning validates before it closes the training epoch
        row = {name: mean.compute().item() for name, mean in self.means.items()} | {"lr": self.lr}
        for mean in self.means.values():
            mean.reset()
        if not self.curve or merit(row) > merit(self.best_epoch):
            self.best = {key: value.detach().cpu().clone() for key, value in self.network.state_dict().items()}
        self.curve.append({"epoch": self.current_epoch} | row)
        self.trainer.should_stop = self.enough()
        for name, value in row.items():
            self.log(name, value, prog_bar=name in ("train_loss", "val_accuracy"))
        self.log_dict({"epoch_seconds": self.seconds, "clips_per_second": self.clips / self.seconds})

    @property
    def best_epoch(self) -> dict:
        """The row of the curve whose weights are kept."""
        return max(self.curve, key=merit)

    def enough(self) -> bool:
        """Whether all epochs are done, or the last `patience` improved neither validation accuracy nor loss."""
        if not self.curve:
            return False
        best = max(self.curve, key=lambda row: row["val_accuracy"]), min(self.curve, key=lambda row: row["val_loss"])
        waited = self.curve[-1]["epoch"] - max(row["epoch"] for row in best)
        return len(self.curve) >= self.recipe.epochs or waited >= self.recipe.patience

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint |= {"curve": self.curve, "best": self.best}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.curve, self.best = checkpoint["curve"], checkpoint["best"]

    def configure_optimizers(self) -> dict:
        """Look both up by torch's names. Raises UserError if torch rejects a name or its arguments.

        Biases and BatchNorm have no weight decay (He et al. 2019, arXiv:1812.01187, section 3.1).
        """
        recipe = self.recipe
        groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
        for weight in self.parameters():
            if weight.requires_grad:
                groups[weight.ndim <= 1]["params"].append(weight)
        more = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
        kernel = getattr(optim, recipe.optimizer, None)
        if isinstance(kernel, type) and "fused" in inspect.signature(kernel).parameters:
            more["fused"] = True
        if recipe.scheduler == "ReduceLROnPlateau":
            raise UserError(
                "train.scheduler: ReduceLROnPlateau steps after a checkpoint, so it cannot be resumed; take another"
            )
        if recipe.optimizer == "ASGD" and "t0" in recipe.optimizer_args:
            raise UserError(
                "train.optimizer_args.t0: leave it out; nothing uses the averages that ASGD keeps from then on"
            )
        with naming("optimizer", recipe.optimizer, arguments := more | recipe.optimizer_args):
            optimizer = getattr(optim, recipe.optimizer)(groups, **arguments)
        whole = {"T_max": recipe.epochs} if recipe.scheduler == "CosineAnnealingLR" else {}
        with naming("scheduler", recipe.scheduler, arguments := whole | recipe.scheduler_args):
            scheduler = getattr(optim.lr_scheduler, recipe.scheduler)(optimizer, **arguments)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def configure_gradient_clipping(self, optimizer: optim.Optimizer, *_: object, **__: object) -> None:
        """Lightning would refuse to clip for a fused optimizer, which unscales float16 gradients only in its step."""
        if limit := self.recipe.gradient_clip:
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            scaled = scaler and getattr(optimizer, "_step_supports_amp_scaling", False)
            nn.utils.clip_grad_norm_(self.parameters(), limit * scaler.get_scale() if scaled else limit)

    def try_out(self) -> None:
        """Call configure_optimizers and step the scheduler once: some check their arguments only then."""
        scheduler, recipe = self.configure_optimizers()["lr_scheduler"], self.recipe
        with naming("scheduler", recipe.scheduler, recipe.scheduler_args), warnings.catch_warnings(action="ignore"):
            scheduler.step()  # torch warns that the optimizer has not stepped before


@contextmanager
def naming(key: str, name: str, arguments: dict) -> Iterator[None]:
    """Turn an error of torch into a UserError that names the parameter."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"train.{key}: torch rejects {name} with {arguments}: {error}") from None
