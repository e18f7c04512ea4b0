"""Wall time of the default study, stage by stage: one training at a time against side by side, in one run.

    $ python benchmarks/study.py                                       at the top of the repository
    $ python benchmarks/study.py -S models=[x3d_m] -S frames=[6,8]     a smaller study

Makes two clones of the last commit that differ only in `side_by_side` (params.yaml): 1 and auto. Each stage
runs in both, in turn, by `dvc repro STAGE`. Prints a Markdown table of the seconds of each stage and their sum.
The seconds that DVC takes to start are part of every stage here, and occur once when `dvc repro` runs all stages.
"""

import tempfile
import time
from pathlib import Path

from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides
from processes import machine

from framebudget.commands.verify import fresh_clone
from framebudget.console import UserError, read_yaml, stage, usage

KEY = "side_by_side"
VALUES = {"one at a time": "1", "side by side": "auto"}


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("-S", "--set-param", action="append", default=[], help="as in dvc exp run")
    changes = parser.parse_args().set_param
    seconds = {}
    print(machine("torch", "pytorch-lightning", "dvc"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        clones = {name: Path(folder, name) for name in VALUES}
        runs = {name: fresh_clone(clone) for name, clone in clones.items()}
        for name, clone in clones.items():
            change(clone / "params.yaml", [*changes, f"{KEY}={VALUES[name]}"])
        stages = read_yaml(clone / "dvc.yaml")["stages"]
        for part in stages:
            for name, run in runs.items():
                start = time.perf_counter()
                run("dvc", "repro", part)
                seconds[part, name] = time.perf_counter() - start
    print_table(list(stages), seconds)


def change(path: Path, changes: list[str]) -> None:
    """Set parameters as `dvc exp run -S` does. Raises UserError for a key that the file does not have."""
    try:
        apply_overrides(path, changes)
    except InvalidArgumentError as error:
        fault = str(error.__cause__).splitlines()[0]
        raise UserError(f"params.yaml of the last commit: {fault} Set only keys that are in this file") from None


def print_table(stages: list[str], seconds: dict[tuple[str, str], float]) -> None:
    one, beside = VALUES
    print(f"\n| stage | {one}, s | {beside}, s | ratio |\n|" + " --- |" * 4)
    rows = {part: [seconds[part, name] for name in VALUES] for part in stages}
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for part, (alone, together) in rows.items():
        print(f"| {part} | {alone:.1f} | {together:.1f} | {alone / together:.2f} × |")


if __name__ == "__main__":
    main()
