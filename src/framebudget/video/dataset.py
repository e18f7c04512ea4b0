"""The clips of a subset as batches of uint8.

What is drawn for a clip is a function of (seed, epoch, clip) alone. The sampler hands out (epoch, clip) pairs and the
data set holds no state, so neither the number of workers nor their order changes a sample.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from framebudget.params import Input
from framebudget.video import sampling, transforms
from framebudget.video.reader import read_frames


class Clips(Dataset):
    """Item (epoch, i) -> clip_VTHWC (uint8), label, i. `views` None: one random view, drawn from (seed, epoch, i).

    rows: path (below `clips`), label, frames, fps and packets, a Packets or None, of each clip.
    """

    def __init__(self, clips: Path, rows: pd.DataFrame, T: int, input: Input, seed: int, views: int | None):
        self.paths = [clips / path for path in rows["path"]]
        self.frames = rows["frames"].tolist()
        self.windows = [input.window_frames(n, fps) for n, fps in zip(rows["frames"], rows["fps"], strict=True)]
        self.packets = rows["packets"].tolist()
        self.labels = rows["label"].tolist()
        self.T, self.input, self.seed, self.views = T, input, seed, views

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        epoch, i = key
        crop = self.input.crop
        if self.views is None:
            generator = np.random.default_rng([self.seed, epoch, i])
            indices_VT = sampling.dynamic(self.frames[i], self.T, self.windows[i], generator)[None]
        else:
            indices_VT = sampling.views(self.frames[i], self.T, self.windows[i], self.views)
        frames_NHWC = read_frames(self.paths[i], indices_VT.ravel(), self.input.short_side, self.packets[i])
        if self.views is None:
            frames_NHWC = transforms.random_crop(frames_NHWC, crop, self.input.flip, generator)
        else:
            frames_NHWC = transforms.centre_crop(frames_NHWC, crop)
        clip_VTHWC = np.ascontiguousarray(frames_NHWC).reshape(*indices_VT.shape, crop, crop, 3)
        return torch.from_numpy(clip_VTHWC), self.labels[i], i


class EpochSampler(Sampler):
    """(epoch, clip) pairs in an order drawn from (seed, epoch); Lightning calls `set_epoch`."""

    def __init__(self, length: int, seed: int, shuffle: bool):
        self.length, self.seed, self.shuffle, self.epoch = length, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        return ((self.epoch, int(i)) for i in order)


def loader(clips: Clips, batch_size: int, workers: int) -> DataLoader:
    """Batches of clips_BVTHWC, labels_B and positions_B. Training clips (random views) are shuffled."""
    training = clips.views is None
    return DataLoader(
        clips,
        batch_size=batch_size,
        sampler=EpochSampler(len(clips), clips.seed, shuffle=training),
        # a last batch of one clip has no batch statistics to speak of
        drop_last=training and len(clips) > batch_size and len(clips) % batch_size == 1,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
