"""Run the study in two clones that differ in all that must not matter, and compare every output by its sha256.

    $ python -m framebudget.verify                                      (make verify)
    $ python -m framebudget.verify -S frames=[2] -S train.epochs=1 -S datasets.motion.x3d_m.epochs=1 \
        -S datasets.motion.slowfast_r50.epochs=1                        a small one, in minutes

The clones are of the last commit, in folders of other names; each runs its own code under another locale, time zone,
umask, hash seed and number of workers. Nothing is shared between them, DVC's cache included. Prints a table; ends with
1 if anything differs. The number of threads and the type of the processor are the same for both: they may change the
last bits of a sum, and so the bytes.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from framebudget.console import sha256, stage, usage

PLACES = {  # folder: environment, umask, workers
    "first": ({"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1"}, 0o022, 0),
    "another place, née": ({"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}, 0o077, 2),
}


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("-S", "--set-param", action="append", default=[], help="as of dvc exp run")
    changes = parser.parse_args().set_param
    with tempfile.TemporaryDirectory() as folder:
        first, second = (study(Path(folder) / name, *place, changes) for name, place in PLACES.items())
    print(compared(first, second))
    sys.exit(first != second)


def compared(first: dict[str, str], second: dict[str, str]) -> str:
    """A line a file, with the beginning of its sha256 in both."""
    names = sorted(first | second)
    rows = [(name, *(digests.get(name, "missing")[:16] for digests in (first, second))) for name in names]
    lines = [f"| {name} | {one} | {'the same' if one == other else f'**{other}**'} |" for name, one, other in rows]
    same = sum(first.get(name) == second.get(name) for name in names)
    head = f"| output | {' | '.join(PLACES)} |\n| --- | --- | --- |"
    return "\n".join([head, *lines, f"\n{same} of {len(names)} files are the same"])


def study(clone: Path, environment: dict[str, str], umask: int, workers: int, changes: list[str]) -> dict[str, str]:
    """The sha256 of every output of every stage."""
    environment = {**os.environ, **environment, "PYTHONPATH": str(clone / "src")}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run(*command: str) -> None:
        if subprocess.run(command, cwd=clone, env=environment, umask=umask, stdout=sys.stderr).returncode:
            raise ValueError(f"{' '.join(command)} failed in {clone}")

    clone.mkdir()
    run("git", "clone", "--quiet", str(Path.cwd()), ".")
    run("dvc", "pull", "--quiet", "data.dvc")
    run("dvc", "exp", "run", *(f"--set-param={change}" for change in [f"workers={workers}", *changes]))
    outs = [clone / out for those in outputs(clone).values() for out in those]
    files = [file for out in outs for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file()]
    return {file.relative_to(clone).as_posix(): sha256(file) for file in files}


def outputs(repository: Path) -> dict[str, list[str]]:
    """What each stage writes."""
    stages = yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: [*stage["outs"], *stage.get("metrics", [])] for name, stage in stages.items()}


if __name__ == "__main__":
    main()
