"""One epoch of X3D-M over real clips: PyTorchVideo's tutorial against Frame Budget, on the same clips, in one run.

    $ python benchmarks/epoch.py FOLDER [--clips 64] [--crop 112 224] [--batch 8] [--rounds 3]

FOLDER holds <class>/<video>. For each crop, prints a Markdown table: clips per second, and the peak memory in GiB of
the process and its two loader workers; medians of the rounds, ± half their range. Both train on the same clips, evenly
spaced in the folder: 16 frames of a random window of 2 s, short side at random from 8/7 to 10/7 of the crop, random
crop and mirror, AdamW, no validation, no MLflow. Both write a checkpoint at the end of the epoch. Each epoch runs in a
fresh process, the two in turn, with OMP_NUM_THREADS threads of torch, or one for each core. Seconds are those of
Trainer.fit, so the workers' start and the first steps count.

    tutorial      LabeledVideoDataset, its transforms, the stock network, a plain LightningModule (tutorial.py)
    framebudget   as learning/fit.py trains, after `fetch` has read the clips once; its seconds are printed first

*trained on* counts the clips that reached the network: LabeledVideoDataset skips a video that it cannot read.
Linux only.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from processes import in_process, machine, status
from tqdm import tqdm

from framebudget.console import MANIFEST, read_csv, read_yaml, usage, write_csv, write_text
from framebudget.sources.folder import find_clips

T, SECONDS, WORKERS, LR = 16, 2.0, 2, 1e-3
PARAMS = Path(__file__).parents[1] / "params.yaml"
PACKAGES = "torch", "pytorch-lightning", "pytorchvideo", "av"


class Epoch(NamedTuple):
    clips: int
    speed: float  # clips per second
    memory: float  # GiB: peak of the process, and the most private memory of its workers


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--crop", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{machine(*PACKAGES)}; torch's threads: {threads()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder)
        link(arguments.folder.resolve(), study / "clips", arguments.clips)
        settings(study, arguments.crop[0], arguments.batch)
        videos, seconds = fetch(study)
        print(f"{arguments.folder.name}: {len(videos)} clips, which `fetch` read once in {seconds:.1f} s", flush=True)
        for crop in arguments.crop:
            settings(study, crop, arguments.batch)
            found = {"tutorial": [], "framebudget": []}
            for _ in tqdm(range(arguments.rounds), desc=f"{crop} px", unit="round", disable=None):
                found["tutorial"].append(measured(tutorial, study, videos, crop, arguments.batch))
                found["framebudget"].append(measured(framebudget, study))
            print_table(f"{T} × {crop} px", found)


def link(clips: Path, folder: Path, count: int) -> None:
    """Link `count` clips into `folder`, evenly spaced in the order of their names."""
    rows, _ = find_clips(clips, None)
    for i in np.unique(np.linspace(0, len(rows) - 1, count).astype(int)):
        path = folder / rows[i]["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(clips / rows[i]["path"])


def settings(study: Path, crop: int, batch: int) -> None:
    """Write the repository's params.yaml, changed for these clips: one network, one budget, one epoch."""
    content = read_yaml(PARAMS)
    content |= {"dataset": "folder", "clips": "clips", "models": ["x3d_m"], "frames": [T], "workers": WORKERS}
    content["trainer"]["precision"] = "32-true"  # as the tutorial's
    content["train"] |= {"optimizer": "AdamW", "lr": LR, "weight_decay": 0.01, "epochs": 1, "batch_size": batch}
    data = content["datasets"]["folder"]
    data |= {section: dict.fromkeys(data[section]) for section in ("train", "x3d_m")}  # null: the values of `train`
    sizes = {"short_side": crop * 8 // 7, "crop": crop, "scale_jitter": 0.25}
    data["input"] |= sizes | {"window": SECONDS, "sampling": "dynamic", "flip": True, "color_jitter": 0}
    write_text(study / "params.yaml", json.dumps(content))  # JSON is YAML


def fetch(study: Path) -> tuple[list[tuple[str, dict]], float]:
    """Read the clips as a study does, and train on all. Returns (path, {"label": label}) of each, and seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "framebudget.fetch"], cwd=study, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    rows = read_csv(study / "work/manifest.csv", MANIFEST)
    rows["label"] = rows["class"].astype("category").cat.codes
    write_csv(rows.assign(fold=0, subset="train"), study / "work/split.csv")
    paths = [str(study / "clips" / path) for path in rows["path"]]
    return [(path, {"label": label}) for path, label in zip(paths, rows["label"].tolist(), strict=True)], seconds


def measured(work: Callable[..., tuple[int, float]], *arguments: object) -> Epoch:
    (clips, seconds, peak), looks = in_process(with_peak, work, *arguments)
    return Epoch(clips, clips / seconds, (peak + max(map(sum, looks), default=0)) / 2**30)


def with_peak(work: Callable[..., tuple[int, float]], *arguments: object) -> tuple[int, float, int]:
    warnings.filterwarnings("ignore")  # pytorchvideo warns at import and at each clip
    logging.disable(logging.INFO)  # Lightning's messages
    return *work(*arguments), status(os.getpid(), "VmHWM")


# Each function imports its own packages, so that neither process holds those of the other in memory.


def tutorial(study: Path, videos: list[tuple[str, dict]], crop: int, batch: int) -> tuple[int, float]:
    """Clips trained on, and seconds."""
    import torch
    from tutorial import train

    torch.set_num_threads(threads())
    return train(videos, T, crop, SECONDS, batch, WORKERS, LR, study)


def framebudget(study: Path) -> tuple[int, float]:
    """Clips trained on, and seconds."""
    import torch

    from framebudget.learning import fit
    from framebudget.study import Study

    os.chdir(study)
    (training,) = Study.load().trainings("x3d_m")
    fit.prepare(0)
    torch.set_num_threads(threads())
    task = fit.Classification(fit.initial(training), training.recipe)
    trainer = fit.trainer_of(training, [fit.LastEpoch(study / "last.ckpt")])
    trainer.limit_val_batches = 0
    start = time.perf_counter()
    trainer.fit(task, datamodule=fit.ClipData(training))
    return task.clips, time.perf_counter() - start


def threads() -> int:
    """Threads of torch in both: OMP_NUM_THREADS, or one for each core."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


def print_table(title: str, found: dict[str, list[Epoch]]) -> None:
    print(f"\n| {title} | clips/s | memory, GiB | trained on | framebudget is |\n|" + " --- |" * 5)
    speeds = {name: statistics.median(epoch.speed for epoch in epochs) for name, epochs in found.items()}
    for name, epochs in found.items():
        cells = [spread([epoch.speed for epoch in epochs]), spread([epoch.memory for epoch in epochs])]
        cells += [" ".join(map(str, sorted({epoch.clips for epoch in epochs})))]
        print(f"| {name} | {' | '.join(cells)} | {speeds['framebudget'] / speeds[name]:.2f} × |", flush=True)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ± {(max(values) - min(values)) / 2:.2f}"


if __name__ == "__main__":
    main()
