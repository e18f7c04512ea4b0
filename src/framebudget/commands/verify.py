"""Run the study in two clones whose differences must not matter, and compare the sha256 of every output.

    $ python -m framebudget.commands.verify                             (make verify)
    $ python -m framebudget.commands.verify -S frames=[2] -S datasets.motion.x3d_m.epochs=1     a smaller study
    $ python -m framebudget.commands.verify --reference reports/motion  (make verify REFERENCE=reports/motion)

Each clone of the last commit has its own folder, locale, time zone, umask, hash seed, number of workers, number of
trainings at once, and DVC cache. With --reference, one clone runs the parameters of a kept study of several seeds, on
the same clips. A mean test accuracy may differ from the kept one by up to four standard deviations over the seeds (the
larger of the two studies'): training amplifies rounding, so another machine acts like other seeds. Exits with 1 if
anything differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from framebudget.console import UserError, read_yaml, sha256, stage, usage, write_text
from framebudget.study import read_predictions

PLACES = {  # folder: environment, umask, parameters
    "first": ({"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1"}, 0o022, ["workers=0", "side_by_side=1"]),
    "another place, née": (
        {"LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}, 0o077, ["workers=2", "side_by_side=2"],
    ),
}  # fmt: skip
FACTOR = 4


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("-S", "--set-param", action="append", default=[], help="as in dvc exp run")
    parser.add_argument("--reference", type=Path, help="a kept study; -S may leave out some of its budgets")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.reference:
            run_study(Path(folder, "clone"), ({}, 0o022, []), arguments.set_param, arguments.reference)
            table = accuracies_beside(arguments.reference, Path(folder, "clone/work"))
        else:
            table = digests_beside(
                *(run_study(Path(folder, name), PLACES[name], arguments.set_param) for name in PLACES)
            )
    print(table.round(3).to_markdown())
    if not arguments.reference:
        print(f"\n{table['same'].sum()} of {len(table)} files are the same")
    sys.exit(not table["same"].all())


def run_study(clone: Path, place: tuple, changes: list[str], kept: Path | None = None) -> dict[str, str]:
    """Run a kept study's parameters, or the last commit's. Returns the sha256 of every output of every stage."""
    environment, umask, own = place
    run = fresh_clone(clone, environment, umask)
    if kept:
        write_text(clone / "params.yaml", with_parameters_of(kept, clone / "params.yaml"))
    run("dvc", "exp", "run", *(f"--set-param={change}" for change in [*own, *changes]))
    stages = read_yaml(clone / "dvc.yaml")["stages"].values()
    outs = [clone / out for stage in stages for out in (*stage["outs"], *stage.get("metrics", []))]
    files = [file for out in outs for file in (out, *out.rglob("*")) if file.is_file()]
    return {file.relative_to(clone).as_posix(): sha256(file) for file in files}


def fresh_clone(clone: Path, environment: dict[str, str] | None = None, umask: int = -1) -> Callable[..., None]:
    """Clone the last commit of this folder, and pull its clips. Returns a function that runs a command in the clone.

    environment, umask: for the commands; by default, this process's. The function raises UserError if a command fails.
    """
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": str(clone / "src")}
    variables.pop("MLFLOW_TRACKING_URI", None)

    def run(*command: str) -> None:
        if subprocess.run(command, cwd=clone, env=variables, umask=umask, stdout=sys.stderr).returncode:
            raise UserError(f"{' '.join(command)} failed in {clone}")

    clone.mkdir()
    run("git", "clone", "--quiet", str(Path.cwd()), ".")
    run("dvc", "cache", "dir", "--local", "--quiet", ".dvc/cache")  # a shared one would have the outputs
    run("dvc", "pull", "--quiet", "data.dvc")
    return run


def with_parameters_of(kept: Path, path: Path) -> str:
    """The parameters of a kept study, except where the clips are.

    Keys that its version did not have are null, and those of `evaluate` as they are here.
    """
    own, theirs = read_yaml(path), read_yaml(kept / "params.yaml")
    for name, data in theirs["datasets"].items():
        for key, section in data.items():
            here = own["datasets"][name][key]
            data[key] = (here if key == "evaluate" else dict.fromkeys(here)) | section
    content = own | theirs | {"clips": own["clips"], "datasets": own["datasets"] | theirs["datasets"]}
    content["trainer"] = own["trainer"] | theirs["trainer"]
    return json.dumps(content, indent=2) + "\n"  # JSON is YAML


def digests_beside(first: dict[str, str], second: dict[str, str]) -> pd.DataFrame:
    """Every output's sha256 in both clones, shortened, and whether the full ones are equal."""
    table = pd.DataFrame({"first": first, "second": second}).fillna("missing").sort_index()
    return table.apply(lambda digests: digests.str[:16]).assign(same=table["first"] == table["second"])


def accuracies_beside(reference: Path, work: Path) -> pd.DataFrame:
    """Test accuracies of a kept study and of this run: mean and standard deviation over the seeds.

    Raises UserError if the two tested on different clips, or if one has a single seed.
    """
    (kept, kept_clips), (here, clips) = scores(reference, reference), scores(work, work / "tables")
    if clips != kept_clips:
        raise UserError(
            f"{reference}: its clips or its test clips are not those of this study; check out the study's commit"
        )
    table = here.join(kept, lsuffix="_here", rsuffix="_kept")
    for (model, budget), seeds in table[["seeds_here", "seeds_kept"]].min(axis=1, skipna=False).items():
        if pd.isna(seeds):
            raise UserError(f"{reference}: no predictions of {model} at budget {budget}")
        if seeds < 2:
            raise UserError(f"{model} at budget {budget}: several seeds are needed to tell a difference from chance")
    difference, std = table["mean_here"] - table["mean_kept"], table[["std_here", "std_kept"]].max(axis=1)
    columns = ["mean_kept", "std_kept", "mean_here", "std_here"]
    return table[columns].assign(difference=difference, same=difference.abs() <= FACTOR * std)


def scores(folder: Path, tables: Path) -> tuple[pd.DataFrame, object]:
    """mean, std and seeds by model and budget, and the clips behind them."""
    rows = read_predictions(folder / "predictions.csv")
    hits = (rows["label"] == rows["prediction"]).groupby([rows["model"], rows["budget"], rows["seed"]]).mean()
    table = hits.groupby(["model", "budget"]).agg(mean="mean", std="std", seeds="count")
    return table, (json.loads((tables / "provenance.json").read_text())["clips_sha256"], set(rows["clip"]))


if __name__ == "__main__":
    main()
