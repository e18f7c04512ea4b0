"""What a careless split is worth, and what frames that are drawn anew every epoch are worth.

    $ python reports/splits/compare.py ut_interaction datasets.folder.fetch.group='^\\d+_(\\d+)_' … [--seeds 0 1 2 3 4]
    $ python reports/splits/compare.py --summary

Run it at the top of the repository, with changes of params.yaml as for `dvc exp run -S`; reports/README.md has the
whole commands. For each seed, which draws the split and trains X3D-M, four arms:

    group      whole groups on one side; frames from the whole clip
    clip       clips on either side, whatever their group (split.by)
    static     as group, frames from the middle second (input.window), the same ones in every epoch (input.sampling)
    dynamic    as static, but from another second in every epoch

writes  reports/splits/<name>.csv   one row for every prediction; leaked: training or validation has clips of its group

What was trained is kept in work/splits, so that the command goes on where it was interrupted.
"""

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from scipy import stats

from framebudget import evaluate, params
from framebudget.console import read_csv, write_csv
from framebudget.video import packets

HERE = Path(__file__).parent
ARMS = {
    "group": [],
    "clip": ["datasets.folder.split.by=clip"],
    "static": ["datasets.folder.input.window=1.0", "datasets.folder.input.sampling=static"],
    "dynamic": ["datasets.folder.input.window=1.0"],
}
AGAINST = {"clip": "group", "dynamic": "static"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", help="of the table that is written")
    parser.add_argument("change", nargs="*", help="key=value in params.yaml; paths absolute")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--summary", action="store_true", help="of the tables that are there, as Markdown")
    arguments = parser.parse_args()
    if arguments.summary:
        print(pd.concat([summary(path) for path in sorted(HERE.glob("*.csv"))]).to_markdown(index=False))
        return
    tables = []
    for seed in arguments.seeds:
        for arm, own in ARMS.items():
            print(f"{arguments.name}, seed {seed}, {arm}", flush=True)
            changes = [*arguments.change, *own, f"seeds={seed}", f"datasets.folder.split.seed={seed}"]
            table = study(Path(f"work/splits/{arguments.name}_{arm}_s{seed}"), changes)
            table.insert(0, "arm", arm)
            tables.append(table)
            write_csv(pd.concat(tables), HERE / f"{arguments.name}.csv")


def study(folder: Path, changes: list[str]) -> pd.DataFrame:
    """One split, one training of X3D-M and its test, by the project's own stages, in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = OmegaConf.merge(OmegaConf.load("params.yaml"), OmegaConf.from_dotlist(changes))
    OmegaConf.save(changed, folder / "params.yaml")
    with contextlib.chdir(folder):
        if not Path("work/x3d_m").exists():
            for stage in (["fetch"], ["split"], ["train", "x3d_m"]):
                subprocess.run([sys.executable, "-m", f"framebudget.{stage[0]}", *stage[1:]], check=True)
        p = params.load()
        split = packets.joined(read_csv(Path("work/split.csv")))
        test = split["subset"] == "test"
        said = evaluate.predict(p, split[test], sorted(split["class"].unique()), "x3d_m", p.frames[0], p.seeds[0])
    said["leaked"] = said["group"].isin(split.loc[~test, "group"])
    return said[["seed", "clip", "group", "label", "prediction", "leaked"]]


def summary(path: Path) -> pd.DataFrame:
    """Mean and deviation of each arm; the differences, paired by seed, with Student's 95 % interval."""
    table = read_csv(path)
    clips, leaked = (table.groupby("arm")["leaked"].agg(what) for what in ("size", "sum"))
    accuracy = (table["label"] == table["prediction"]).groupby([table["seed"], table["arm"]]).mean().unstack()
    rows = []
    for arm in ARMS:
        row = {"data": path.stem, "arm": arm, "seeds": len(accuracy), "test clips": clips[arm], "leaked": leaked[arm]}
        row |= {"mean": accuracy[arm].mean(), "deviation": accuracy[arm].std()}
        if arm in AGAINST:
            by_seed = accuracy[arm] - accuracy[AGAINST[arm]]
            low, high = stats.ttest_1samp(by_seed, 0).confidence_interval()
            row |= {"minus": AGAINST[arm], "difference": by_seed.mean(), "95 % from": low, "to": high}
        rows.append(row)
    return pd.DataFrame(rows).round(3)


if __name__ == "__main__":
    main()
