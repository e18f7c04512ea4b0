"""Run the study in two clones that differ in all that must not matter, and compare every output by its sha256.

    $ python -m framebudget.verify                                      (make verify)
    $ python -m framebudget.verify -S frames=[2] -S train.epochs=1 -S datasets.motion.x3d_m.epochs=1 \
        -S datasets.motion.slowfast_r50.epochs=1                        a small one, in minutes
    $ python -m framebudget.verify --reference reports/motion           (make verify REFERENCE=reports/motion)

The clones are of the last commit, in folders of other names; each runs its own code under another locale, time zone,
umask, hash seed and number of workers. Nothing is shared between them, DVC's cache included. Prints a table; ends with
1 if anything differs. The number of threads and the type of the processor are the same for both: they may change the
last bits of a sum, and so the bytes.

With a reference, a study that was kept and has several seeds, its parameters are run in one clone on this machine, and
its test accuracies are compared by Welch's t-test over the seeds: training amplifies the last bits until another
machine is like other seeds. The clips must be the same. Ends with 1 if an accuracy differs by more than chance
(p < 0.01, Holm).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import ttest_ind

from framebudget.console import PREDICTIONS, read_csv, sha256, stage, usage, write_text
from framebudget.params import read_yaml
from framebudget.report.statistics import holm

PLACES = {  # folder: environment, umask, workers
    "first": ({"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1"}, 0o022, 0),
    "another place, née": ({"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}, 0o077, 2),
}
ALPHA = 0.01


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("-S", "--set-param", action="append", default=[], help="as of dvc exp run")
    parser.add_argument("--reference", type=Path, help="a study that was kept; what of it is run with -S is compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.reference:
            clone = Path(folder) / "clone"
            study(clone, {}, 0o022, 1, arguments.set_param, arguments.reference)
            table = beside(arguments.reference, clone / "work")
            print(table.round(3).to_markdown(index=False))
            sys.exit(bool((table["p_holm"] < ALPHA).any()))
        first, second = (study(Path(folder) / name, *place, arguments.set_param) for name, place in PLACES.items())
    print(compared(first, second))
    sys.exit(first != second)


def beside(reference: Path, work: Path) -> pd.DataFrame:
    """Test accuracies of a kept study and of one that was just run, and the p of their difference over the seeds.

    Raises ValueError if they did not test on the same clips, or a seed alone.
    """
    found = []
    for tables, predictions in ((reference, reference), (work / "tables", work)):
        rows = read_csv(predictions / "predictions.csv", PREDICTIONS)
        hits = (rows["label"] == rows["prediction"]).groupby([rows["model"], rows["frames"], rows["seed"]]).mean()
        clips = json.loads((tables / "provenance.json").read_text())["clips_sha256"], set(rows["clip"])
        found.append((hits, clips))
    (there, clips), (here, others) = found
    if clips != others:
        raise ValueError(f"{reference}: its clips, or those that it tested on, are others than here")
    rows = []
    for (model, frames), hits in here.groupby(level=["model", "frames"], sort=False):
        if (model, frames) not in there.index.droplevel("seed"):
            raise ValueError(f"{reference}: nothing of {model} at {frames} frames")
        kept = there[model, frames]
        if min(len(hits), len(kept)) < 2:
            raise ValueError(f"{model} at {frames} frames: several seeds are needed to tell a difference from chance")
        p = 1.0 if sorted(hits) == sorted(kept) else np.nan_to_num(ttest_ind(hits, kept, equal_var=False).pvalue)
        rows.append({"model": model, "frames": frames, "kept": kept.mean(), "here": hits.mean(), "p": p})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def compared(first: dict[str, str], second: dict[str, str]) -> str:
    """A line a file, with the beginning of its sha256 in both."""
    names = sorted(first | second)
    rows = [(name, *(digests.get(name, "missing")[:16] for digests in (first, second))) for name in names]
    lines = [f"| {name} | {one} | {'the same' if one == other else f'**{other}**'} |" for name, one, other in rows]
    same = sum(first.get(name) == second.get(name) for name in names)
    head = f"| output | {' | '.join(PLACES)} |\n| --- | --- | --- |"
    return "\n".join([head, *lines, f"\n{same} of {len(names)} files are the same"])


def study(
    clone: Path, environment: dict[str, str], umask: int, workers: int, changes: list[str], kept: Path | None = None
) -> dict[str, str]:
    """The sha256 of every output of every stage, with the parameters of a kept study or those of the last commit."""
    environment = {**os.environ, **environment, "PYTHONPATH": str(clone / "src")}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run(*command: str) -> None:
        if subprocess.run(command, cwd=clone, env=environment, umask=umask, stdout=sys.stderr).returncode:
            raise ValueError(f"{' '.join(command)} failed in {clone}")

    clone.mkdir()
    run("git", "clone", "--quiet", str(Path.cwd()), ".")
    run("dvc", "pull", "--quiet", "data.dvc")
    if kept:
        write_text(clone / "params.yaml", with_parameters_of(kept, clone / "params.yaml"))
    run("dvc", "exp", "run", *(f"--set-param={change}" for change in [f"workers={workers}", *changes]))
    outs = [clone / out for those in outputs(clone).values() for out in those]
    files = [file for out in outs for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file()]
    return {file.relative_to(clone).as_posix(): sha256(file) for file in files}


def with_parameters_of(kept: Path, path: Path) -> str:
    """params.yaml, but for where the clips lie, as a study was run with it."""
    own, said = read_yaml(path), read_yaml(kept / "params.yaml")
    content = own | said | {"clips": own["clips"], "datasets": own["datasets"] | said["datasets"]}
    return json.dumps(content, indent=2) + "\n"  # which is YAML


def outputs(repository: Path) -> dict[str, list[str]]:
    """What each stage writes."""
    stages = read_yaml(repository / "dvc.yaml")["stages"]
    return {name: [*stage["outs"], *stage.get("metrics", [])] for name, stage in stages.items()}


if __name__ == "__main__":
    main()
