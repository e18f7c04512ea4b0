"""Measure what a careless split, static frames, and the published protocol change.

    $ python reports/splits/compare.py ut_interaction datasets.folder.fetch.group='^\\d+_(\\d+)_' … [--arms published]
    $ python reports/splits/compare.py --summary

Run it at the top of the repository, with changes of params.yaml as for `dvc exp run -S`; reports/README.md has the
whole commands. Each seed draws one split and trains X3D-M once in each of these arms:

    group           whole groups on one side; dynamic frames: every epoch sees another window of a clip
    clip            as group, but clips on either side, whatever their group (split.by)
    static          as group, but every epoch sees the window in the middle of a clip (input.sampling)
    published       the protocol of the original study, with its faults (protocol)
    published_new   the networks of `published` on the groups of `group`, which are new to them but chose their epoch

writes  reports/splits/<name>.csv   one row for every prediction; leaked: other clips of its group were trained on or
                                    chose the epoch; rows of other arms and seeds stay
        reports/splits/summary.csv  with --summary; the paper reads it

Trainings are kept in work/splits, so an interrupted command resumes when it runs again.
"""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from scipy import stats

from framebudget.console import PREDICTIONS, read_csv, usage, write_csv
from framebudget.learning.prediction import predict
from framebudget.study import Study

HERE = Path(__file__).parent
ARMS = {  # changes of params.yaml, and the subset of work/split.csv that is predicted
    "group": ([], "test"),
    "clip": (["datasets.folder.split.by=clip"], "test"),
    "static": (["datasets.folder.input.sampling=static"], "test"),
    "published": (["protocol=published"], "test"),
    "published_new": (["protocol=published"], "validation"),
}


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("name", nargs="?", help="name of the table to write")
    parser.add_argument("change", nargs="*", help="key=value in params.yaml; paths must be absolute")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--summary", action="store_true", help="summarize all tables; also prints Markdown")
    arguments = parser.parse_args()
    if arguments.summary:
        table = pd.concat([summary(path) for path in sorted(HERE.glob("*.csv")) if path.stem != "summary"])
        write_csv(table, HERE / "summary.csv")
        print(table.round(3).to_markdown(index=False))
        return
    kept, found = HERE / f"{arguments.name}.csv", Path(f"work/splits/{arguments.name}")
    run(found, arguments.change, ["fetch"])
    for seed in arguments.seeds:
        for arm in arguments.arms:
            print(f"{arguments.name}, seed {seed}, {arm}", flush=True)
            own, subset = ARMS[arm]
            changes = [*arguments.change, *own, f"seeds={seed}", f"datasets.folder.split.seed={seed}"]
            folder = found.with_name(f"{arguments.name}_{'_'.join(own) or 'group'}_s{seed}")
            keep(results_of(found, folder, changes, subset).assign(arm=arm), kept)


def keep(new: pd.DataFrame, path: Path) -> None:
    """Put the predictions of one arm and seed into the table, where they replace the old ones."""
    if path.exists():
        table = read_csv(path, PREDICTIONS)
        stays = (table["arm"] != new["arm"].iloc[0]) | (table["seed"] != new["seed"].iloc[0])
        new = pd.concat([table[stays], new])
    new["arm"] = pd.Categorical(new["arm"], list(ARMS))  # sorts in the order of ARMS
    new = new.sort_values(["seed", "arm"], kind="stable")
    write_csv(new[["arm", "seed", "clip", "group", "label", "prediction", "leaked"]], path)


def run(folder: Path, changes: list[str], *stages: list[str]) -> None:
    """The project's own stages in a folder of their own, with changed parameters, unless they have run so there."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = OmegaConf.merge(OmegaConf.load("params.yaml"), OmegaConf.from_dotlist(changes))
    OmegaConf.save(changed, folder / "params.yaml")
    content, ran = (folder / "params.yaml").read_text(), folder / "ran.yaml"
    if not ran.exists() or ran.read_text() != content:
        for stage, *arguments in stages:
            subprocess.run([sys.executable, "-m", f"framebudget.{stage}", *arguments], check=True, cwd=folder)
        ran.write_text(content)


def results_of(found: Path, folder: Path, changes: list[str], subset: str) -> pd.DataFrame:
    """One split of the clips that were found, one training of X3D-M, and its predictions of the clips of a subset."""
    shutil.copytree(found / "work", folder / "work", dirs_exist_ok=True)
    run(folder, changes, ["split"], ["train", "x3d_m"])
    with contextlib.chdir(folder):
        study = Study.load()
        asked = study.split["subset"] == subset
        tested = study.split.assign(subset=asked.map({True: "test", False: "train"}))
        predictions = predict(Study(study.params, tested).trainings("x3d_m")[0], lambda *_: None).predictions
    predictions["leaked"] = predictions["group"].isin(study.split.loc[~asked, "group"])
    return predictions


def summary(path: Path) -> pd.DataFrame:
    """Mean and deviation of each arm; its difference from `group`, paired by seed, with Student's 95% interval."""
    table = read_csv(path, PREDICTIONS)
    clips, leaked = (table.groupby("arm")["leaked"].agg(what) for what in ("size", "sum"))
    accuracy = (table["label"] == table["prediction"]).groupby([table["seed"], table["arm"]]).mean().unstack()
    rows = []
    for arm in filter(accuracy.columns.__contains__, ARMS):
        row = {"data": path.stem, "arm": arm, "seeds": len(accuracy), "clips": clips[arm], "leaked": leaked[arm]}
        row |= {"mean": accuracy[arm].mean(), "deviation": accuracy[arm].std()}
        if arm != "group":
            by_seed = accuracy[arm] - accuracy["group"]
            low, high = stats.ttest_1samp(by_seed, 0).confidence_interval()
            row |= {"difference": by_seed.mean(), "low": low, "high": high}
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
