"""The clips of a subset as batches of uint8 frames.

What is drawn for a clip is a function of (seed, epoch, clip) alone. The sampler hands out (epoch, clip) pairs and the
data set holds no state, so neither the number of workers nor their order changes a sample.
"""

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from framebudget.console import sha256
from framebudget.params import Input
from framebudget.video import sampling, transforms
from framebudget.video.reader import ClipError, endless, read_frames
from framebudget.video.transforms import View


def check(clips: Path, rows: pd.DataFrame) -> None:
    """Raises ClipError where a clip (path, below `clips`) is no longer the one that fetch has seen (sha256)."""
    seen = dict(zip(rows["path"], rows["sha256"], strict=True))
    changed = [str(clips / path) for path in seen if endless(clips / path) or sha256(clips / path) != seen[path]]
    if changed:
        raise ClipError(f"{', '.join(changed)}: changed since fetch; run it again: dvc repro -f fetch")


class Clips(Dataset):
    """Item (epoch, i) -> frames_VTHWC (uint8), what a network sees of them, label, i.

    rows: path (below `clips`), label, frames, fps and packets, a Packets or None, of each clip.
    views: spans of time, in evaluation; None: one, and all else that is random, drawn from (seed, epoch, i).
    crops: squares of each span, 1 or 3, in evaluation.
    Raises ClipError if a clip is too short and `input.short` is `error`.
    """

    def __init__(
        self, clips: Path, rows: pd.DataFrame, T: int, input: Input, seed: int, views: int | None, crops: int = 1
    ):
        self.folder, self.T, self.input, self.seed, self.views, self.crops = clips, T, input, seed, views, crops
        paths, frames = rows["path"].tolist(), rows["frames"].tolist()
        spans = [input.span(n, fps, T) for n, fps in zip(frames, rows["fps"], strict=True)]
        self.clips = Packed(zip(paths, frames, spans, rows["packets"], rows["label"].tolist(), strict=True))
        for path, n, span in zip(paths, frames, spans, strict=True):
            try:
                sampling.within(n, np.array([span - 1]), input.short)
            except ValueError as error:
                raise ClipError(
                    f"{clips / path}: {error}; lower `frames`, leave the clip out, or set input.short to repeat_last "
                    "or wrap in params.yaml"
                ) from None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, View, int, int]:
        epoch, i = key
        input, (path, frames, span, packets, label) = self.input, self.clips[i]
        generator = np.random.default_rng([self.seed, epoch, i])
        side = input.short_side
        if self.views is None:
            indices_VT = sampling.draw(input.sampling, frames, self.T, span, generator, input.short)[None]
            if input.scale_jitter:
                side = int(generator.integers(side, round(side * (1 + input.scale_jitter)), endpoint=True))
        else:
            indices_VT = sampling.views(frames, self.T, span, self.views, input.short)
        frames_NHWC = read_frames(self.folder / path, indices_VT.ravel(), side, packets)
        H, W = frames_NHWC.shape[1:3]
        if self.views is None:
            view = transforms.random_view(H, W, input.crop, input.flip, input.color_jitter, generator)
        else:
            view = transforms.even_view(H, W, input.crop, self.crops)
        return torch.from_numpy(frames_NHWC).unflatten(0, indices_VT.shape), view, label, i


class Packed:
    """Objects as one array of bytes, each made anew when it is asked for.

    The processes of a loader share its pages, however often they read. Of a list they end up with copies, for each
    reading of an object counts a reference in it (pytorch#13246), and what it works out for itself stays.
    """

    def __init__(self, objects: Iterable[object]):
        pickled = [pickle.dumps(item) for item in objects]
        self.ends = np.cumsum([len(item) for item in pickled])
        self.bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> object:
        return pickle.loads(self.bytes[self.ends[i - 1] if i else 0 : self.ends[i]])


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

    @property
    def places(self) -> range:
        """Where in an epoch's order this rank's clips stand."""
        end = self.length // self.ranks * self.ranks if self.shuffle else self.length
        return range(self.rank, end, self.ranks)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        return ((self.epoch, int(order[place])) for place in self.places)


def collate(samples: list[tuple]) -> tuple[torch.Tensor, list[View], torch.Tensor, torch.Tensor]:
    """The items as a batch; below and to the right of the smaller frames stand zeros, which no view sees."""
    frames, views, labels, positions = zip(*samples, strict=True)
    H, W = (max(clip.shape[axis] for clip in frames) for axis in (2, 3))
    padded = [F.pad(clip, (0, 0, 0, W - clip.shape[3], 0, H - clip.shape[2])) for clip in frames]
    return torch.stack(padded), list(views), torch.tensor(labels), torch.tensor(positions)


def loader(clips: Clips, batch_size: int, workers: int, rank: int = 0, ranks: int = 1) -> DataLoader:
    """Batches of frames_BVTHWC (uint8), their B views, labels_B and positions_B. Training clips are shuffled."""
    training = clips.views is None
    sampler = EpochSampler(len(clips), clips.seed, training, rank, ranks)
    return DataLoader(
        clips,
        batch_size=batch_size,
        sampler=sampler,
        # a last batch of one clip has no batch statistics to speak of; several ranks have a clip each at least
        drop_last=training and ranks == 1 and len(sampler) > batch_size and len(sampler) % batch_size == 1,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
