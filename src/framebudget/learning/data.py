"""The Lightning data module: batches of clips for one training."""

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from framebudget.console import UserError
from framebudget.study import Training
from framebudget.video.dataset import Clips, loader
from framebudget.video.transforms import inputs


class ClipData(pl.LightningDataModule):
    """Training clips, sampled anew every epoch, and validation clips, one view each."""

    def __init__(self, training: Training):
        super().__init__()
        self.training = training

    def check_shares(self, ranks: int) -> None:
        """Raises UserError if the clips cannot be shared among this many devices over all machines."""
        batch_size = self.training.recipe.batch_size
        if batch_size % ranks:
            raise UserError(f"train.batch_size: {batch_size} is not a multiple of {ranks} devices")
        for subset in ("train", "validation"):
            if (clips := len(self.training.clips(subset))) < ranks:
                raise UserError(f"trainer.devices: {ranks} is too many for {clips} {subset} clips")

    def train_dataloader(self) -> DataLoader:
        return self.batches("train", None)

    def val_dataloader(self) -> DataLoader:
        return self.batches("validation", 1)

    def batches(self, subset: str, views: int | None) -> DataLoader:
        training, p = self.training, self.training.params
        clips = Clips(p.folder, training.clips(subset), training.T, training.input, training.seed, views)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        loaded = loader(clips, training.recipe.batch_size // ranks, p.workers, rank, ranks)
        # Lightning does this too, but when it resumes a training, only after the workers have begun to read
        loaded.sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return loaded

    def on_after_batch_transfer(self, batch: tuple, dataloader_idx: int) -> tuple[Tensor, Tensor, list[int]]:
        """clips_BVCTHW, made on the device, labels_B, and a seed for each clip."""
        frames_BVTHWC, views, labels_B, _ = batch
        clips_BVCTHW = inputs(frames_BVTHWC, views, self.training.input.crop)
        if self.training.memory_format == "contiguous_format":
            clips_BVCTHW = clips_BVCTHW.contiguous()
        return clips_BVCTHW, labels_B, [view.seed for view in views]
