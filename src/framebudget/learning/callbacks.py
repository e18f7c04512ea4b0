"""Keep the state of a training after every epoch, and report its progress."""

import sys
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from framebudget.console import UserError
from framebudget.models import weights


class LastEpoch(Checkpoint):
    """Keep the state after the last full epoch, to resume from, in one file that is replaced as a whole."""

    KEYS = frozenset({
        "pytorch-lightning_version", "epoch", "global_step", "loops", "state_dict", "optimizer_states", "lr_schedulers",
        "curve", "best",
    })  # fmt: skip

    def __init__(self, path: Path):
        self.path, self.found = path, str(path) if path.exists() else None
        try:
            if self.found and (missing := self.KEYS - weights.unpickled(path).keys()):
                raise UserError(f"{path}: not the state of a training, {', '.join(sorted(missing))} missing")
        except UserError as error:
            raise UserError(f"{error}; rm -r {path.parent}, and this training begins again") from None

    def on_train_epoch_end(self, trainer: pl.Trainer, *args) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            partial.replace(self.path)


class Progress(TQDMProgressBar):
    """On a terminal, one bar an epoch."""

    def __init__(self, title: str):
        super().__init__(refresh_rate=int(sys.stderr.isatty()))
        self.title = title

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def get_metrics(self, *args) -> dict:
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}

    def on_train_epoch_start(self, trainer: pl.Trainer, *args) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.title}: epoch {trainer.current_epoch + 1}")
