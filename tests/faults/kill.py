"""Kill every stage at random moments, run it again, and compare what it wrote with a study that nobody killed.

    $ python -m tests.faults.kill                      # 20 moments of each stage, SIGKILL, SIGTERM and SIGINT in turn
    $ python -m tests.faults.kill --moments 3 --stages split paper
    $ python -m tests.faults.kill --repro 9            # and nine of a whole `dvc repro`

A tiny study (15 clips, 3 frames, 32 pixels, 2 epochs) runs once for reference. For each moment, a stage starts over
older outputs or, every other time, without any, as under `dvc repro`. A signal goes to all of its processes. Every
output must then be absent, the old one or the right one. The stage runs once more to its end, and every output must be
the right one. Moments are fractions of the stage's measured time, drawn from --seed. Processes are forked from
one that has imported all modules, so that no moment is wasted on the seconds of importing torch, when nothing is
written; --repro kills the real command, with imports and DVC.

Prints a Markdown table. The exit status is 1 if anything was wrong.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from framebudget.console import read_yaml
from tests.conftest import fresh_repository, motion_clips, run, set_params
from tests.faults.state import digests, left_behind, unfinished_runs

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
MODULES = {
    "fetch": ["framebudget.fetch"],
    "split": ["framebudget.split"],
    "train_x3d": ["framebudget.train", "x3d_m"],
    "train_slowfast": ["framebudget.train", "slowfast_r50"],
    "evaluate": ["framebudget.evaluate"],
    "figures": ["framebudget.figures"],
    "paper": ["framebudget.paper"],
}
fork = multiprocessing.get_context("fork")


def outputs(repository: Path) -> dict[str, list[str]]:
    """What each stage writes."""
    stages = read_yaml(repository / "dvc.yaml")["stages"]
    return {name: [*stage["outs"], *stage.get("metrics", [])] for name, stage in stages.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20, help="of each stage (20)")
    parser.add_argument("--stages", nargs="*", default=list(MODULES), choices=MODULES)
    parser.add_argument("--repro", type=int, default=0, help="moments of a whole dvc repro (0)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = tiny_study(Path(folder))
        outs = outputs(study)
        run("dvc", "repro", cwd=study)
        every = [out for those in outs.values() for out in those]
        reference = digests(study, every)
        for module, *_ in MODULES.values():
            __import__(module)
        rows = []
        for stage in arguments.stages:
            drawn = random.Random(f"{arguments.seed} {stage}")
            rows.append(kill_stage(study, stage, outs[stage], reference, arguments.moments, drawn))
        if arguments.repro:
            rows.append(kill_repro(study, every, reference, arguments.repro, random.Random(arguments.seed)))
        open_runs = unfinished_runs(study)
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False))
    print(f"\nMLflow runs that are still open after all: {len(open_runs)} {open_runs or ''}")
    return int(table["wrong"].any())


def tiny_study(folder: Path) -> Path:
    clips = motion_clips(folder / "clips")
    study = fresh_repository(folder / "study")
    set_params(
        study, dataset="folder", clips=str(clips), frames=[2, 3], workers=1, **{
            "train.epochs": 2, "train.batch_size": 4, "trainer.save_every": 0,
            "datasets.folder.fetch.group": r"_(g\d+)_",
            "datasets.folder.input.short_side": 32, "datasets.folder.input.crop": 32,
            "datasets.folder.evaluate.views": 2, "datasets.folder.input.window": 1.0,
        },
    )  # fmt: skip
    return study


def kill_stage(
    study: Path, stage: str, outs: list[str], reference: dict[str, str], moments: int, drawn: random.Random
) -> dict:
    right = {out: reference[out] for out in outs}
    seconds, wrong = to_the_end(study, stage), []
    if digests(study, outs) != right:
        wrong.append("not killed: other bytes")
    ended = kept = 0
    for number in range(moments):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(study / "work/trainings")
        for out in outs:
            spoil(study / out) if number % 2 else remove(study / out)
        before = digests(study, outs)
        name = f"{SIGNALS[number % 3].name} after {(share := drawn.random()):.2f}"
        process = start(study, stage)
        process.join(share * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, SIGNALS[number % 3])
        process.join(60)
        if process.is_alive():
            wrong.append(f"{name}: does not end")
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        ended += process.exitcode != 0
        left = digests(study, outs)
        wrong += [f"{name}: {out} half written" for out in outs if left[out] not in (None, before[out], right[out])]
        kept += any(study.glob("work/trainings/*/*.ckpt")) or any(study.glob("work/trainings/*/finished.json"))
        try:
            to_the_end(study, stage)
        except RuntimeError as error:
            wrong.append(f"{name}: {error}")
        wrong += [f"{name}, again: {out}" for out, digest in digests(study, outs).items() if digest != right[out]]
        wrong += [f"{name}, again: left {path}" for path in left_behind(study)]
    return {
        "stage": stage,
        "seconds": round(seconds, 1),
        "kills": moments,
        "ended by it": ended,
        "state saved": kept,
        "wrong": "; ".join(wrong),
    }


def kill_repro(study: Path, outs: list[str], reference: dict[str, str], moments: int, drawn: random.Random) -> dict:
    """A whole `dvc repro` of a study of which only the clips are there, and no cache of DVC's."""

    def gone() -> None:
        for name in ("work", "dvc.lock", "paper/paper.pdf", ".dvc/cache", ".dvc/tmp"):
            remove(study / name)

    gone()
    begun = time.monotonic()
    run("dvc", "repro", cwd=study)
    seconds, wrong, ended = time.monotonic() - begun, [], 0
    for number in range(moments):
        gone()
        name = f"{SIGNALS[number % 3].name} after {(share := drawn.random()):.2f}"
        process = subprocess.Popen(
            ["dvc", "repro"], cwd=study, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(share * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, SIGNALS[number % 3])
        process.wait(60)
        ended += process.returncode != 0
        left = digests(study, outs)
        wrong += [f"{name}: {out} half written" for out in outs if left[out] not in (None, reference[out])]
        again = run("dvc", "repro", cwd=study, check=False)
        if again.returncode:
            wrong.append(f"{name}, again: {again.stderr[-300:]}")
        wrong += [f"{name}, again: {out}" for out, digest in digests(study, outs).items() if digest != reference[out]]
        wrong += [f"{name}, again: left {path}" for path in left_behind(study)]
    return {
        "stage": "dvc repro", "seconds": round(seconds, 1), "kills": moments, "ended by it": ended,
        "state saved": "", "wrong": "; ".join(wrong),
    }  # fmt: skip


def start(study: Path, stage: str) -> multiprocessing.Process:
    """The stage, in a process group of its own."""
    process = fork.Process(target=stage_command, args=(study, stage))
    process.start()
    return process


def stage_command(study: Path, stage: str) -> None:
    os.setsid()
    os.chdir(study)
    with Path("output").open("w") as output:
        os.dup2(output.fileno(), 1), os.dup2(output.fileno(), 2)
    sys.argv = MODULES[stage]
    runpy.run_module(MODULES[stage][0], run_name="__main__", alter_sys=True)


def to_the_end(study: Path, stage: str) -> float:
    """Seconds that it took."""
    begun = time.monotonic()
    process = start(study, stage)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"ended with {process.exitcode}: {(study / 'output').read_text()[-500:]}")
    return time.monotonic() - begun


def spoil(path: Path) -> None:
    """Make an older output of it: whole, and another one."""
    for file in [path] if path.is_file() else path.rglob("*.*"):
        with file.open("ab") as end:
            end.write(b"\n")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
