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
from framebudget.video.reader import ClipError, read_frames


class Clips(Dataset):
    """Item (epoch, i) -> clips_VTHWC (uint8), label, i. `views` None: one random view, drawn from (seed, epoch, i).

    rows: path (below `clips`), label, frames, fps and packets, a Packets or None, of each clip.
    views: spans of time, in evaluation; crops: squares of each, 1 or 3; V is their product.
    Raises ClipError if a clip is too short and `input.short` is `error`.
    """

    def __init__(
        self, clips: Path, rows: pd.DataFrame, T: int, input: Input, seed: int, views: int | None, crops: int = 1
    ):
        self.paths = [clips / path for path in rows["path"]]
        self.frames = rows["frames"].tolist()
        self.spans = [input.span(n, fps, T) for n, fps in zip(rows["frames"], rows["fps"], strict=True)]
        self.packets = rows["packets"].tolist()
        self.labels = rows["label"].tolist()
        self.T, self.input, self.seed, self.views, self.crops = T, input, seed, views, crops
        if input.short == "error":
            for path, frames, span in zip(self.paths, self.frames, self.spans, strict=True):
                if frames < span:
                    raise ClipError(
                        f"{path}: {frames} frames, but {span} are needed; lower `frames`, leave the clip out, or set "
                        "input.short to repeat_last or wrap in params.yaml"
                    )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int, int]:
        epoch, i = key
        input, frames, span = self.input, self.frames[i], self.spans[i]
        generator = np.random.default_rng([self.seed, epoch, i])
        if self.views is None:
            indices_VT = sampling.draw(input.sampling, frames, self.T, span, generator, input.short)[None]
        else:
            indices_VT = sampling.views(frames, self.T, span, self.views, input.short)
        frames_NHWC = read_frames(self.paths[i], indices_VT.ravel(), input.short_side, self.packets[i])
        if self.views is None:
            squares = [transforms.random_crop(frames_NHWC, input.crop, input.flip, generator)]
        else:
            squares = transforms.even_crops(frames_NHWC, input.crop, self.crops)
        clips_VTHWC = np.concatenate([square.reshape(*indices_VT.shape, *square.shape[1:]) for square in squares])
        return torch.from_numpy(clips_VTHWC), self.labels[i], i


class EpochSampler(Sampler):
    """(epoch, clip) pairs in an order drawn from (seed, epoch); Lightning calls `set_epoch`.

    Of several ranks, each takes every so many-th pair. Shuffled, all ranks have the same number, and up to ranks - 1
    clips wait for the next epoch; in order, every clip is taken once.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, ranks: int = 1):
        self.length, self.seed, self.shuffle, self.rank, self.ranks = length, seed, shuffle, rank, ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order())

    def order(self) -> np.ndarray:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
            order = order[: self.length // self.ranks * self.ranks]
        return order[self.rank :: self.ranks]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, int(i)) for i in self.order())


def loader(clips: Clips, batch_size: int, workers: int, rank: int = 0, ranks: int = 1) -> DataLoader:
    """Batches of clips_BVTHWC, labels_B and positions_B. Training clips (random views) are shuffled."""
    training = clips.views is None
    sampler = EpochSampler(len(clips), clips.seed, training, rank, ranks)
    return DataLoader(
        clips,
        batch_size=batch_size,
        sampler=sampler,
        # a last batch of one clip has no batch statistics to speak of
        drop_last=training and len(sampler) > batch_size and len(sampler) % batch_size == 1,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
