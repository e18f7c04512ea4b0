"""What share of an epoch waits for data: the training step against the loader, on the same machine, in the same run.

    $ python benchmarks/loading.py FOLDER [--frames 16] [--crop 112] [--batches 12]

FOLDER holds <class>/<video>. Prints a Markdown table: clips per second of the loader alone, of X3D-M's training
step (batch 8, AdamW; bf16 on a GPU) alone, and of both together, and the share of that time spent waiting for a batch.
With workers, the loader and the step compete for the same cores; without, the step waits for every clip.
"""

import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from framebudget.console import usage
from framebudget.learning.runtime import prepare
from framebudget.models import NETWORKS
from framebudget.models.replay import Replay
from framebudget.models.views import autocast, logits_of
from framebudget.params import Input
from framebudget.sources.folder import VIDEOS
from framebudget.sources.proof import build
from framebudget.video.dataset import Clips, loader
from framebudget.video.reader import probe
from framebudget.video.transforms import inputs

warnings.filterwarnings("ignore", module="torch.utils.data")  # "more workers than cores": that is what is measured


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    prepare(0)
    rows = []
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in VIDEOS)
    for path in tqdm(paths, desc="decode", unit="clip", disable=None):
        name = str(path.relative_to(arguments.folder))
        rows.append(probe(path) | {"path": name, "first": 0, "frame_index": build(path), "label": 0})
    side = arguments.crop
    spec = Input(
        short_side=side * 8 // 7,
        crop=side,
        window=None,
        sampling="dynamic",
        stride=1,
        short="wrap",
        flip=True,
        scale_jitter=0,
        color_jitter=0,
    )
    clips = Clips(arguments.folder, pd.DataFrame(rows), arguments.frames, spec, 0, None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = NETWORKS["x3d_m"].build(10).to(device)
    compute, casts = Replay(network), autocast("bf16-mixed" if device.type == "cuda" else "32-true", device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    print(f"{arguments.folder.name}: {len(clips)} clips, {arguments.frames} frames, {side} px, on {device.type}\n")
    print("| workers | loader alone, clips/s | step | together | waiting |\n| --- | --- | --- | --- | --- |")
    for workers in arguments.workers:
        (read, alone, _), (trained, waiting, working) = (
            run(clips, arguments.batches, workers, work)
            for work in (lambda batch: None, lambda batch: step(compute, casts, optimizer, batch, side))
        )
        speeds = [read / alone, trained / working, trained / (waiting + working)]
        cells = [str(workers), *(f"{speed:.1f}" for speed in speeds), f"{waiting / (waiting + working):.1%}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def run(clips: Clips, batches: int, workers: int, work: Callable[[tuple], None]) -> tuple[int, float, float]:
    """Clips in `batches` batches, and seconds spent waiting for these and working on them, after two to warm up."""
    data = loader(clips, 8, workers)
    sizes, waiting, working = [], [], []
    for epoch in itertools.count():
        data.sampler.set_epoch(epoch)
        start = time.perf_counter()
        for batch in data:
            ready = time.perf_counter()
            work(batch)
            sizes.append(len(batch[2]))  # the last of an epoch may have fewer
            waiting.append(ready - start)
            start = time.perf_counter()
            working.append(start - ready)
        if len(working) >= batches + 2:
            return tuple(sum(column[2 : batches + 2]) for column in (sizes, waiting, working))


def step(compute: Replay, casts: torch.autocast, optimizer: torch.optim.Optimizer, batch: tuple, crop: int) -> None:
    frames_BVTHWC, views, labels_B, _ = batch
    device = next(compute.network.parameters()).device
    clips_BVCTHW = inputs(frames_BVTHWC.to(device, non_blocking=True), views, crop)
    with casts:
        logits_BK = logits_of(compute, clips_BVCTHW).mean(1)
    loss = torch.nn.functional.cross_entropy(logits_BK.float(), labels_B.to(device, non_blocking=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss.item()


if __name__ == "__main__":
    main()
