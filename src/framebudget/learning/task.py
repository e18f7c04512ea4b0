"""The Lightning module: what a step is, and what is measured of it."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from framebudget.models.views import logits_of
from framebudget.params import Train


class Classification(pl.LightningModule):
    """Cross-entropy on logits. Means over an epoch weigh every clip the same."""

    def __init__(self, network: nn.Module, recipe: Train):
        super().__init__()
        self.network, self.recipe = network, recipe
        self.means = nn.ModuleDict(
            {f"{subset}_{what}": MeanMetric() for subset in ("train", "val") for what in ("loss", "accuracy")}
        )
        self.curve: list[dict] = []  # one row an epoch

    def step(self, batch: tuple[Tensor, Tensor], subset: str) -> Tensor:
        clips_BVCTHW, labels_B = batch
        logits_BK = logits_of(self.network, clips_BVCTHW).mean(1)
        loss = F.cross_entropy(logits_BK, labels_B)
        if not loss.isfinite():
            raise FloatingPointError(
                f"the {subset} loss is {loss.item()} in epoch {self.current_epoch}, step {self.global_step}; "
                f"lower the learning rate (lr: {self.recipe.lr})"
            )
        hits_B = (logits_BK.argmax(1) == labels_B).float()
        self.means[f"{subset}_loss"].update(loss.detach(), len(labels_B))
        self.means[f"{subset}_accuracy"].update(hits_B)
        return loss

    def on_train_epoch_start(self) -> None:  # by the time of validation, the schedule has moved on
        self.lr = self.optimizers().param_groups[0]["lr"]

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.step(batch, "val")

    def on_validation_epoch_end(self) -> None:  # Lightning validates before it closes the training epoch
        row = {name: mean.compute().item() for name, mean in self.means.items()}
        row["lr"] = self.lr
        for mean in self.means.values():
            mean.reset()
        self.curve.append({"epoch": self.current_epoch} | row)
        for name, value in row.items():
            self.log(name, value, prog_bar=name in ("train_loss", "val_accuracy"))

    def configure_optimizers(self) -> dict:
        recipe = self.recipe
        fused = {} if recipe.optimizer == "ASGD" else {"fused": True}  # ASGD has no such kernel
        optimizer = getattr(torch.optim, recipe.optimizer)(
            self.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, **fused
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, recipe.step_size, recipe.gamma)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
