"""Split the clips into training, validation and test, by group.

    $ python -m framebudget.split           (dvc repro split)

reads   work/manifest.csv       one row a clip, from fetch
        params.yaml             datasets.<dataset>.split
writes  work/split.csv          the manifest, with label (0 … K-1, classes sorted by name) and subset

No group is on two sides: clips of one group share a person, a scene or a source video, and a network that has seen
one recognises the other by its background. `by: clip` splits carelessly instead, to measure what that is worth.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from framebudget import params
from framebudget.console import read_csv, stage, write_csv

SUBSETS = ("train", "validation", "test")


@stage
def main() -> None:
    manifest = read_csv(Path("work/manifest.csv"))
    rule = params.load().data.split
    manifest["label"] = manifest["class"].astype("category").cat.codes
    kept = manifest if rule.by == "group" else manifest.assign(group=manifest["clip"])
    manifest["subset"] = split_groups(kept, rule.test, rule.validation, rule.seed)
    test = manifest["subset"] == "test"
    print(f"{leaked(manifest)} of {test.sum()} test clips share their group with clips of training or validation")
    write_csv(manifest, Path("work/split.csv"))


def leaked(split: pd.DataFrame) -> int:
    """How many test clips share their group with a clip of another subset."""
    test = split["subset"] == "test"
    return int(split.loc[test, "group"].isin(split.loc[~test, "group"]).sum())


def split_groups(manifest: pd.DataFrame, test: float, validation: float, seed: int) -> pd.Series:
    """The subset of each row, near-stratified by class.

    Classes with the fewest groups choose first. Each of their groups, large ones first, goes to the subset that has
    no clip of the class yet, or else lacks the most of its share of it (after iterative stratification, Sechidis et
    al. 2011). Raises ValueError if a class has too few groups to be on all three sides.
    """
    counts = pd.crosstab(manifest["group"], manifest["class"])  # groups × classes, clips
    counts = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    share = pd.DataFrame(
        {"train": 1 - validation - test, "validation": validation, "test": test}, index=counts.columns
    ).T
    wanted = share * counts.sum()
    have = wanted * 0
    subset_of = {}
    for name in counts.columns[np.argsort((counts > 0).sum(), kind="stable")]:
        groups = counts.index[counts[name] > 0]
        if len(groups) < 3:
            raise ValueError(
                f"class {name!r} has {len(groups)} group(s) of clips ({', '.join(groups)}); three are needed, one each "
                "for training, validation and test. Add clips, or name groups otherwise (fetch.group in params.yaml)"
            )
        for group in groups[np.argsort(-counts.loc[groups, name], kind="stable")]:
            if group in subset_of:
                continue
            lack = (wanted - have)[name].mask(have[name] == 0, np.inf)
            subset = lack.idxmax()
            subset_of[group] = subset
            have.loc[subset] += counts.loc[group]
        if (have[name] == 0).any():
            raise ValueError(
                f"class {name!r} is missing in {', '.join(have.index[have[name] == 0])}: it shares its groups with "
                "other classes; try another split.seed in params.yaml"
            )
    return manifest["group"].map(subset_of)


if __name__ == "__main__":
    main()
