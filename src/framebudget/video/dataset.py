"""The clips of a subset as batches of uint8 frames.

Everything random about a sample depends on (seed, epoch, clip) alone: neither the number of workers nor their order
changes a sample.
"""

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from framebudget.console import listed, sha256
from framebudget.params import Input
from framebudget.video import sampling, transforms
from framebudget.video.container import ClipError
from framebudget.video.reader import read_frames
from framebudget.video.timeline import at
from framebudget.video.transforms import View


def check(clips: Path, rows: pd.DataFrame) -> None:
    """Raises ClipError if the sha256 of a clip (`path`, below the folder `clips`) is not the one that fetch stored."""
    stored = {clips / path: digest for path, digest in zip(rows["path"], rows["sha256"], strict=True)}
    changed = [str(path) for path, digest in stored.items() if not path.is_file() or sha256(path) != digest]
    if changed:
        raise ClipError(f"{listed(changed)}: missing, or changed since fetch; run it again: dvc repro -f fetch")


class Clips(Dataset):
    """Item (epoch, i) -> frames_VTHWC (uint8), their View, label, i.

    rows: path (below the folder `clips`), label, first, frames, fps, frame_index (a FrameIndex or None) and shown
    (video/timeline.py) of each clip. first: the number of its first frame, or tick, in the video.
    views, crops: how many evenly spaced spans of frames, and squares (1 or 3) of each, evaluation takes. Training has
    views None: one of each, drawn from (seed, epoch, i) like all other augmentation.
    """

    def __init__(
        self, clips: Path, rows: pd.DataFrame, T: int, spec: Input, seed: int, views: int | None, crops: int = 1
    ):
        self.folder, self.T, self.spec, self.seed, self.views, self.crops = clips, T, spec, seed, views, crops
        names = "path", "first", "frames", "fps", "frame_index", "shown", "label"
        columns = [rows[name].tolist() for name in names]
        items: list[tuple] = []
        videos: dict[str, tuple[int, tuple]] = {}
        for path, first, frames, fps, index, shown, label in zip(*columns, strict=True):
            video, _ = videos.setdefault(path, (len(videos), (index, shown)))  # may have thousands of clips
            items.append((path, first, frames, sampling.span(spec, frames, fps, T), video, label))
        self.clips, self.videos = Packed(items), Packed(facts for _, facts in videos.values())

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, View, int, int]:
        epoch, i = key
        spec, (path, first, frames, span, video, label) = self.spec, self.clips[i]
        index, shown = self.videos[video]
        side, generator = spec.short_side, np.random.default_rng([self.seed, epoch, i])
        if self.views is None:
            indices_VT = sampling.draw(spec.sampling, frames, self.T, span, generator, spec.short)[None]
            if spec.scale_jitter:
                side = int(generator.integers(side, round(side * (1 + spec.scale_jitter)), endpoint=True))
        else:
            indices_VT = sampling.views(spec.sampling, frames, self.T, span, self.views, spec.short)
        frames_NHWC = read_frames(self.folder / path, at(shown, first + indices_VT.ravel()), side, index)
        H, W = frames_NHWC.shape[1:3]
        if self.views is None:
            view = transforms.random_view(H, W, spec.crop, spec.flip, spec.color_jitter, generator)
        else:
            view = transforms.even_view(H, W, spec.crop, self.crops)
        return torch.from_numpy(frames_NHWC).unflatten(0, indices_VT.shape), view, label, i


class Packed:
    """A read-only list of tuples, pickled into one array. Reading an item unpickles only that item.

    Loader processes share the memory of the array. They would copy a list page by page, because reading an object
    changes its reference count (pytorch#13246), and anything an object caches would stay in every worker.
    """

    def __init__(self, items: Iterable[tuple]):
        pickled = [pickle.dumps(item) for item in items]
        self.ends = np.cumsum([len(item) for item in pickled])
        self.bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> tuple:
        return pickle.loads(self.bytes[self.ends[i - 1] if i else 0 : self.ends[i]].data)


class EpochSampler(Sampler):
    """(epoch, clip) pairs, shuffled by (seed, epoch) or in order. Lightning calls `set_epoch`.

    Each of R ranks takes every R-th pair. If shuffled, all ranks take equally many, so up to R - 1 clips miss an epoch.
    In order, every clip is taken once.
    """

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int, ranks: int):
        self.length, self.seed, self.shuffle, self.epoch = length, seed, shuffle, 0
        self.places = range(rank, length // ranks * ranks if shuffle else length, ranks)  # in the order of an epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        return ((self.epoch, int(order[place])) for place in self.places)


def collate(samples: list[tuple]) -> tuple[torch.Tensor, list[View], torch.Tensor, torch.Tensor]:
    """Batch the items. Smaller frames are padded with zeros below and to the right, where no view looks."""
    frames, views, labels, positions = zip(*samples, strict=True)
    H, W = (max(clip.shape[axis] for clip in frames) for axis in (2, 3))
    padded = [F.pad(clip, (0, 0, 0, W - clip.shape[3], 0, H - clip.shape[2])) for clip in frames]
    return torch.stack(padded), list(views), torch.tensor(labels), torch.tensor(positions)


def loader(clips: Clips, batch_size: int, workers: int, rank: int = 0, ranks: int = 1) -> DataLoader:
    """Batches of frames_BVTHWC (uint8), B views, labels_B and positions_B (the i of each). Training is shuffled."""
    training = clips.views is None
    sampler = EpochSampler(len(clips), clips.seed, training, rank, ranks)
    # one clip alone has no batch statistics, but several ranks together always have more
    drop_last = training and ranks == 1 and len(sampler) > batch_size and len(sampler) % batch_size == 1
    return DataLoader(
        clips, batch_size=batch_size, sampler=sampler, drop_last=drop_last, collate_fn=collate, num_workers=workers,
        persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
