"""One epoch of X3D-M as PyTorchVideo's tutorial "Training a PyTorchVideo classification model" does it.

It has the tutorial's data set, transforms and plain LightningModule, and PyTorchVideo's stock network. Validation, the
logger and the sound of the clips are left out, because nothing here uses them. The tutorial trains a 3D ResNet with
Adam, and has other crops and sizes.
"""

import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler
from pytorchvideo.models.x3d import create_x3d
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, Lambda, RandomCrop, RandomHorizontalFlip, _functional_tensor

# pytorchvideo.transforms imports a module that torchvision renamed in 0.17 (pytorchvideo#258, never fixed in a release)
sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor)
from pytorchvideo import transforms as theirs


class VideoClassification(pl.LightningModule):
    """Counts the clips that it is trained on."""

    def __init__(self, network: torch.nn.Module, lr: float):
        super().__init__()
        self.model, self.lr, self.clips = network, lr, 0

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        y_hat = self.model(batch["video"])
        loss = F.cross_entropy(y_hat, batch["label"])
        self.clips += len(batch["label"])
        self.log("train_loss", loss.item(), batch_size=len(batch["label"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def dataset(videos: list[tuple[str, dict]], T: int, crop: int, seconds: float) -> LabeledVideoDataset:
    """One random window of each video in random order: its frames as (C, T, H, W) floats, as its network takes them."""
    video = [
        theirs.UniformTemporalSubsample(T),
        Lambda(lambda x: x / 255.0),
        theirs.Normalize((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        theirs.RandomShortSideScale(min_size=crop * 8 // 7, max_size=crop * 10 // 7),  # 256 to 320 for a crop of 224
        RandomCrop(crop),
        RandomHorizontalFlip(p=0.5),
    ]
    transform = theirs.ApplyTransformToKey(key="video", transform=Compose(video))
    return LabeledVideoDataset(videos, make_clip_sampler("random", seconds), transform=transform, decode_audio=False)


def train(
    videos: list[tuple[str, dict]], T: int, crop: int, seconds: float, batch: int, workers: int, lr: float, folder: Path
) -> tuple[int, float]:
    """Train for one epoch. videos: (path, {"label": label}). Returns clips trained on and seconds."""
    pl.seed_everything(0, verbose=False)
    classes = len({about["label"] for _, about in videos})
    network = create_x3d(input_clip_length=T, input_crop_size=crop, model_num_class=classes)
    module = VideoClassification(network, lr)
    loader = DataLoader(dataset(videos, T, crop, seconds), batch_size=batch, num_workers=workers)
    trainer = pl.Trainer(
        max_epochs=1, default_root_dir=folder, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    start = time.perf_counter()
    trainer.fit(module, loader)
    return module.clips, time.perf_counter() - start
