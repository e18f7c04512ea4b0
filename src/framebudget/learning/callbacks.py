"""Save the state of a training, and report its progress."""

import time
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint

from framebudget.console import UserError
from framebudget.learning.display import Tell
from framebudget.models import weights

PAUSE = 0.5  # seconds between two reports


class LastEpoch(Checkpoint):
    """Save the state after a full epoch, to resume from, in one file that is replaced as a whole.

    Writing takes time, because SlowFast's state has 550 MB. So the state is not saved if a kill before the end of the
    next epoch would lose no more than about `every` seconds of work.
    """

    KEYS = frozenset({
        "pytorch-lightning_version", "epoch", "global_step", "loops", "state_dict", "optimizer_states", "lr_schedulers",
        "curve", "best",
    })  # fmt: skip

    def __init__(self, path: Path, every: float = 0):
        self.path, self.every, self.found = path, every, str(path) if path.exists() else None
        self.curve: list[dict] = []  # of the epochs before
        if self.found:
            try:
                state = weights.unpickled(path)
                if missing := self.KEYS - state.keys():
                    raise UserError(f"{path}: not the state of a training, {', '.join(sorted(missing))} missing")
            except UserError as error:
                raise UserError(f"{error}; to start over: rm -r {path.parent}") from None
            self.curve = state["curve"]

    def on_train_start(self, *args) -> None:
        self.saved = self.ended = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, *args) -> None:
        now, before = time.monotonic(), self.ended
        self.ended = now
        if trainer.strategy.broadcast(now + (now - before) - self.saved > self.every):  # if the next takes as long
            partial = self.path.with_suffix(".partial")
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                partial.replace(self.path)
            self.saved = time.monotonic()


class Report(Callback):
    """Report progress in epochs. At the end of each, the note names the best validation accuracy."""

    def __init__(self, tell: Tell):
        self.tell, self.note, self.told = tell, "", 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, task: pl.LightningModule, *args) -> None:
        batch = args[-1]
        if time.monotonic() - self.told > PAUSE:
            self.report(trainer, trainer.current_epoch + (batch + 1) / trainer.num_training_batches)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args) -> None:
        if time.monotonic() - self.told > PAUSE:  # a long validation is no reason to be silent
            self.report(trainer, trainer.current_epoch + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        best = task.best_epoch
        self.note = (
            f"validation accuracy {best['val_accuracy']:.3f} after epoch {best['epoch'] + 1} of {len(task.curve)}"
        )
        self.report(trainer, len(task.curve))

    def on_train_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.on_train_epoch_end(trainer, task)  # a training that resumes after its last epoch runs no other

    def report(self, trainer: pl.Trainer, epochs: float) -> None:
        self.told = time.monotonic()
        if trainer.is_global_zero:
            self.tell(epochs, trainer.max_epochs, self.note)
