"""Many clips, and many hours: do time and memory grow as they should?

    $ python benchmarks/load.py [--clips 500 5000 50000]
    $ python benchmarks/load.py --loop 25

The first prints a Markdown table for these numbers of clips: seconds, and memory in MiB. *main*: peak of the stage's
process above its imports. *worker*: the most private memory of any of its child processes. fetch reads files of 16
frames that differ in their last bytes; all else takes a manifest whose rows share 20 files of 180 frames, by hard
links. Networks are stubs with a few weights, so the benchmark measures everything around them.

The second trains X3D-M on 160 clips for that many minutes, at the default study's resolution and with its command, and
prints what grew: memory and open files of the training process and of the processes that read clips. Linux only.
"""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from processes import MIB, children, in_process, own, status
from scipy.stats import linregress, t
from torch import nn
from tqdm import tqdm

from framebudget import fetch, params, split
from framebudget.console import MANIFEST, SPLIT, read_csv, usage, write_csv, write_text
from framebudget.learning.prediction import predict
from framebudget.models import NETWORKS, weights
from framebudget.models.layers import GlobalMean
from framebudget.report import plots, scores, strips
from framebudget.sources import motion
from framebudget.study import Study, read_predictions, write_table
from framebudget.video import index
from framebudget.video.dataset import Clips, check, loader

CLASSES, GROUP = 20, 5  # clips of a group
WORKERS = 2
SCENES, FOREVER = 32, 10**6
WARM_UP, BLOCKS = 0.2, 10  # of a loop: the share that is dropped, and the blocks over which the rest is averaged
PARAMS = Path(__file__).parents[1] / "params.yaml"
warnings.filterwarnings("ignore", module="torch.utils.data")  # "more workers than cores"


class Cost(NamedTuple):
    seconds: float
    main: float
    worker: float


class Seen(NamedTuple):
    moment: float
    memory_training: float
    memory_reading: float
    open_files_training: int
    open_files_reading: int


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[500, 5000, 50_000])
    parser.add_argument("--loop", type=float, metavar="MINUTES")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.loop:
            loop(Path(folder), arguments.loop)
        else:
            grow(Path(folder), arguments.clips)


def grow(folder: Path, counts: list[int]) -> None:
    """A table with a row for every stage and number of clips."""
    rows = []
    for clips in counts:
        files, study = folder / f"files{clips}", folder / f"study{clips}"
        write_files(files, clips)
        found = {"fetch": measured(fetch_clips, files)}
        shutil.rmtree(files)
        write_manifest(study, clips)
        found |= {name: measured(work, study) for name, work in STAGES.items()}
        shutil.rmtree(study)
        rows += [(name, clips, cost) for name, cost in found.items()]
    print("| stage | clips | seconds | for 1,000 clips | main, MiB | worker, MiB |\n|" + " --- |" * 6)
    for name, clips, cost in sorted(rows, key=lambda row: list(found).index(row[0])):
        cells = f"{cost.seconds:.1f} | {1000 * cost.seconds / clips:.2f} | {cost.main:.0f} | {cost.worker:.0f}"
        print(f"| {name} | {clips:,} | {cells} |")


def names(clips: int) -> list[tuple[str, str]]:
    """(class, clip) of each, in groups of GROUP clips."""
    number = [divmod(i, CLASSES) for i in range(clips)]
    return [(f"c{k:02d}", f"c{k:02d}/v_c{k:02d}_g{i // GROUP:04d}_c{i % GROUP}") for i, k in number]


def write_files(folder: Path, clips: int) -> None:
    """Files to fetch: one clip of 32 × 24 pixels, each with other bytes after its end."""
    settings(folder)
    small = motion.render(motion.draw_scene(1), "Sway")[:16, :72:3, :96:3]
    motion.write_clip(folder / "small.avi", small)
    content = (folder / "small.avi").read_bytes()
    for i, (name, clip) in enumerate(tqdm(names(clips), desc="write", unit="clip", disable=None)):
        (folder / "clips" / name).mkdir(parents=True, exist_ok=True)
        (folder / "clips" / f"{clip}.avi").write_bytes(content + i.to_bytes(8))


def write_manifest(folder: Path, clips: int) -> None:
    """What fetch would write about clips that share one file per class."""
    settings(folder)
    once = motion.render(motion.draw_scene(1), "Sway")[:, :72:3, :96:3]
    facts, rows = {}, []
    for name, clip in tqdm(names(clips), desc="link", unit="clip", disable=None):
        file, path = folder / f"{name}.avi", f"{clip}.avi"
        if name not in facts:
            (folder / "clips" / name).mkdir(parents=True)
            motion.write_clip(file, np.roll(np.concatenate([once] * 4)[:180], len(facts), axis=0))
            facts[name] = fetch.survey(file)
        (folder / "clips" / path).hardlink_to(file)
        group = clip.rpartition("_")[0]
        rows.append({"clip": clip, "path": path, "class": name, "group": group, "first": 0} | facts[name])
    manifest = pd.DataFrame(rows)
    write_text(folder / "work/index.json", index.dump(manifest))
    write_csv(manifest.drop(columns=["frame_index", "shown", "odd"]), folder / "work/manifest.csv")


def settings(folder: Path) -> None:
    """The repository's params.yaml, changed for these clips: two workers, one budget."""
    folder.mkdir()
    content = yaml.safe_load(PARAMS.read_text())
    content |= {"dataset": "folder", "clips": "clips", "frames": [6], "workers": WORKERS}
    data = content["datasets"]["folder"]
    data["fetch"]["group"] = r"v_(.+_g\d+)_"
    data["input"] |= {"short_side": 32, "crop": 32}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def fetch_clips() -> None:
    fetch.main()  # fetch.main itself cannot be sent to another process


def split_by_group() -> None:
    split.main()


def split_every_clip() -> None:
    """As if every clip were a group of its own; the split by group is kept."""
    kept = Path("work/split.csv").read_bytes()
    manifest = read_csv(Path("work/manifest.csv"), MANIFEST)
    write_csv(manifest.assign(group=manifest["clip"]), Path("work/manifest.csv"))
    split.main()
    write_csv(manifest, Path("work/manifest.csv"))
    Path("work/split.csv").write_bytes(kept)


def join_and_check() -> None:
    check(params.load().folder, index.joined(read_csv(Path("work/split.csv"), SPLIT)))


def one_epoch() -> None:
    """Every clip is read once, as if all were to be trained on."""
    study = Study.load()
    p, first = study.params, study.trainings("x3d_m")[0]
    data = loader(Clips(p.folder, study.split, first.T, first.input, 0, None), 8, p.workers)
    for _ in tqdm(data, desc="read", unit="batch", disable=None):
        pass


def predict_all() -> None:
    """Both networks, with a few weights; a fifth of the clips is tested."""
    for key, network in NETWORKS.items():
        NETWORKS[key] = replace(network, build=few_weights)
    predicted = []
    for training in Study.load().trainings():
        training.file.parent.mkdir(exist_ok=True)
        weights.save(training.file, few_weights(CLASSES), precision="32-true")
        predicted.append(predict(training, lambda *_: None))
    write_table(pd.concat([one.predictions for one in predicted]), Path("work/predictions.csv"), "frames")


def few_weights(classes: int) -> nn.Module:
    return nn.Sequential(GlobalMean(), nn.Flatten(), nn.Linear(3, classes))


def draw_all() -> None:
    """What `figures` draws of all clips or all predictions."""
    rows, predictions = read_csv(Path("work/split.csv"), SPLIT), read_predictions(Path("work/predictions.csv"))
    folder = Path("work/figures")
    folder.mkdir()
    scores.scores(predictions, 2)
    plots.save(plots.frames_per_clip(rows, [6], "frames"), folder, "lengths")
    plots.save(plots.confusion(predictions, "frames"), folder, "confusion")
    strips.mistakes(predictions)


STAGES = {
    "split": split_by_group,
    "split, every clip a group": split_every_clip,
    "join and check": join_and_check,
    "an epoch of the loader": one_epoch,
    "predict": predict_all,
    "figures of all clips": draw_all,
}


def measured(work: Callable[[], None], folder: Path) -> Cost:
    """What a function costs in a fresh process, started in this folder."""
    (seconds, main), looks = in_process(alone, work, folder)
    return Cost(seconds, main / MIB, max((bytes for look in looks for bytes in look), default=0) / MIB)


def alone(work: Callable[[], None], folder: Path) -> tuple[float, int]:
    os.chdir(folder)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = status(os.getpid(), "VmHWM"), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.perf_counter() - start, status(os.getpid(), "VmHWM") - before


def loop(folder: Path, minutes: float) -> None:
    """Train indefinitely, sample every two seconds, and stop after `minutes`."""
    content = yaml.safe_load(PARAMS.read_text())
    content |= {"clips": "clips", "frames": [6], "workers": 1}
    content["trainer"]["save_every"] = 0
    content["datasets"]["motion"]["train"]["patience"] = FOREVER
    content["datasets"]["motion"]["x3d_m"]["epochs"] = FOREVER
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    motion.write_motion(folder / "clips", SCENES)
    for stage in ("fetch", "split"):
        subprocess.run(
            [sys.executable, "-m", f"framebudget.{stage}"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
    training = subprocess.Popen([sys.executable, "-m", "framebudget.train", "x3d_m"], cwd=folder)
    seen, end = [], time.monotonic() + 60 * minutes
    with tqdm(total=round(minutes), desc="train", unit="min", disable=None) as bar:
        while time.monotonic() < end:
            time.sleep(2)
            seen.append(Seen(time.monotonic(), *looked_at(training.pid)))
            bar.update(round(minutes - (end - time.monotonic()) / 60) - bar.n)
    training.send_signal(signal.SIGTERM)
    training.wait()
    (file,) = folder.glob("work/trainings/*/last.ckpt")
    state = torch.load(file, weights_only=True)
    print(f"{minutes:g} minutes, {state['epoch'] + 1:,} epochs, {state['global_step']:,} steps\n")
    print_growth(seen[round(WARM_UP * len(seen)) :], 60 * state["global_step"] / minutes)


def looked_at(pid: int) -> tuple[float, float, int, int]:
    """Memory and open files of a training and of its children."""
    readers = children(pid)
    return (
        status(pid, "VmRSS") / MIB,
        sum(map(own, readers)) / MIB,
        open_files(pid),
        sum(map(open_files, readers)),
    )


def open_files(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0


def print_growth(seen: list[Seen], steps_an_hour: float) -> None:
    table = pd.DataFrame(seen)
    hours = table.pop("moment") / 3600
    print("| | first | last | least | most | an hour | 1,000 steps | 3 hours |\n|" + " --- |" * 8)
    for name, column in table.items():
        middle, width = slope(hours, column)
        grown = (f"{middle * n:.2f} ± {width * n:.2f}" for n in (1, 1000 / steps_an_hour, 3))
        levels = (f"{value:.1f}" for value in (*means(column)[[0, -1]], column.min(), column.max()))
        print(f"| {name.replace('_', ' ')} | {' | '.join([*levels, *grown])} |")


def slope(hours: pd.Series, values: pd.Series) -> tuple[float, float]:
    """Growth per hour, and half its 95% interval, from means over blocks: neighboring samples are not independent."""
    fit = linregress(means(hours), means(values))
    return fit.slope, np.nan_to_num(fit.stderr) * t.ppf(0.975, BLOCKS - 2)  # NaN if the values never change


def means(values: pd.Series) -> np.ndarray:
    return np.array([block.mean() for block in np.array_split(values.to_numpy(float), BLOCKS)])


if __name__ == "__main__":
    main()
