"""The Lightning data module: the clips of a study as the batches of one training."""

import pandas as pd
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from framebudget.params import Params
from framebudget.runs import Run
from framebudget.video.dataset import Clips, loader
from framebudget.video.transforms import inputs


class ClipData(pl.LightningDataModule):
    """Training clips, drawn anew every epoch, and validation clips, one view each.

    clips: the table of `split`, each clip once, with the column `frame_index`.
    """

    def __init__(self, params: Params, clips: pd.DataFrame, model: str, run: Run):
        super().__init__()
        self.params, self.clips, self.model, self.seed = params, clips, model, run.seed
        self.T, self.input = params.sampled(model, run.budget)

    def check_shares(self, ranks: int) -> None:
        """Raises ValueError if so many devices, over all machines, cannot each have their part."""
        batch_size = self.params.recipe(self.model).batch_size
        if batch_size % ranks:
            raise ValueError(f"train.batch_size: {batch_size} clips cannot be shared out evenly to {ranks} devices")
        for subset in ("train", "validation"):
            if (clips := (self.clips["subset"] == subset).sum()) < ranks:
                raise ValueError(f"trainer.devices: {clips} {subset} clips are too few for {ranks} devices")

    def train_dataloader(self) -> DataLoader:
        return self.batches("train", None)

    def val_dataloader(self) -> DataLoader:
        return self.batches("validation", 1)

    def batches(self, subset: str, views: int | None) -> DataLoader:
        p, rows = self.params, self.clips[self.clips["subset"] == subset]
        clips = Clips(p.folder, rows, self.T, self.input, self.seed, views)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        loaded = loader(clips, p.recipe(self.model).batch_size // ranks, p.workers, rank, ranks)
        # Lightning says this too, but in a training that goes on only after the workers have begun to read
        loaded.sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return loaded

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple[Tensor, Tensor, list[int]]:
        """clips_BVCTHW, made on the device, labels_B, and a seed for each clip."""
        frames_BVTHWC, views, labels_B, _ = batch
        clips_BVCTHW = inputs(frames_BVTHWC, views, self.input.crop)
        if self.params.trainer.memory_format == "contiguous_format":
            clips_BVCTHW = clips_BVCTHW.contiguous()
        return clips_BVCTHW, labels_B, [view.seed for view in views]
