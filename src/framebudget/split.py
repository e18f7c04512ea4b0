"""Split the clips into training, validation and test, by group.

    $ python -m framebudget.split           (dvc repro split)

reads   work/manifest.csv       one row a clip, from fetch
        params.yaml             protocol, datasets.<dataset>.split
writes  work/split.csv          the manifest, with label (0 … K-1, classes sorted by name), fold and subset; in
                                cross-validation, once for every fold

No group is on two sides: clips of one group share a person, a scene or a source video, and a network that has seen
one recognises the other by its background. `by: clip` splits carelessly instead, to measure what that is worth.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from framebudget import params
from framebudget.console import MANIFEST, read_csv, stage, usage, write_csv
from framebudget.params import Split

SUBSETS = ("train", "validation", "test")


@stage
def main() -> None:
    manifest = read_csv(Path("work/manifest.csv"), MANIFEST)
    p = params.load()
    manifest["label"] = manifest["class"].astype("category").cat.codes
    folds = cross_validation(manifest, p.data.split) if p.data.split.folds else [subsets(manifest, p.data.split)]
    if p.protocol == "published":
        folds = [as_published(subset, p.data.split.seed) for subset in folds]
    tables = [manifest.assign(fold=fold, subset=subset) for fold, subset in enumerate(folds)]
    split = pd.concat(tables)
    test, leaks = (split["subset"] == "test").sum(), sum(map(leaked, tables))
    print(f"{leaks} of {test} test clips share their group with clips of training or validation")
    write_csv(split, Path("work/split.csv"))


def leaked(split: pd.DataFrame) -> int:
    """How many test clips share their group with a clip of another subset."""
    test = split["subset"] == "test"
    return int(split.loc[test, "group"].isin(split.loc[~test, "group"]).sum())


def subsets(manifest: pd.DataFrame, rule: Split) -> pd.Series:
    """The subset of each row, by fractions or by UCF101's official test lists. Raises ValueError."""
    if rule.official is None:
        shares = {"train": 1 - rule.validation - rule.test, "validation": rule.validation, "test": rule.test}
        return split_groups(kept_together(manifest, rule), shares, rule.seed)
    test = manifest["group"].str[-3:].isin(official_test_groups(rule.official))
    for name, in_test in test.groupby(manifest["class"]):
        if in_test.nunique() < 2:
            side = "training" if in_test.all() else "test"
            raise ValueError(
                f"class {name!r} has no clip on the {side} list {rule.official} (split.official in params.yaml); "
                "for a part of UCF101 set split.official to null and split.test to a fraction"
            )
    return tested_on(test, manifest, rule)


def cross_validation(manifest: pd.DataFrame, rule: Split) -> list[pd.Series]:
    """The subset of each row in each fold; every clip is tested on in one of them. Raises ValueError."""
    names = [f"fold {fold}" for fold in range(rule.folds)]
    fold = split_groups(kept_together(manifest, rule), dict.fromkeys(names, 1 / rule.folds), rule.seed)
    return [tested_on(fold == name, manifest, rule) for name in names]


def tested_on(test: pd.Series, manifest: pd.DataFrame, rule: Split) -> pd.Series:
    """The subset of each row, where these are the test and the others are shared out."""
    shares = {"train": 1 - rule.validation, "validation": rule.validation}
    others = split_groups(kept_together(manifest, rule)[~test], shares, rule.seed)
    return others.reindex(manifest.index, fill_value="test")


def kept_together(manifest: pd.DataFrame, rule: Split) -> pd.DataFrame:
    """The manifest, `group` naming the clips that shall not be parted."""
    return manifest if rule.by == "group" else manifest.assign(group=manifest["clip"])


def official_test_groups(number: int) -> list[str]:
    """Of UCF101's official split 1, 2 or 3: seven groups of every class, g01-g07, g08-g14 or g15-g21.

    g01 of one class has nothing to do with g01 of another: the manifest's groups begin with the class.
    """
    return [f"g{group:02d}" for group in range(7 * number - 6, 7 * number + 1)]


def as_published(subset: pd.Series, seed: int) -> pd.Series:
    """The split of the study that is redone here: what should be tested on chooses the epoch, and 3 % of the clips
    that are trained on, whatever their groups, are taken out to test with."""
    subset = subset.map({"train": "train", "validation": "train", "test": "validation"})
    training = subset.index[subset == "train"]
    subset[np.random.default_rng(seed).choice(training, max(1, round(0.03 * len(training))), replace=False)] = "test"
    return subset


def split_groups(manifest: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """The subset of each row, near-stratified by class. shares: the fraction of the clips that each subset takes.

    Classes with the fewest groups choose first. Each of their groups, large ones first, goes to the subset that has
    no clip of the class yet, or else lacks the most of its share of it (after iterative stratification, Sechidis et
    al. 2011). Raises ValueError if a class has too few groups to be on all sides.
    """
    counts = pd.crosstab(manifest["group"], manifest["class"])  # groups × classes, clips
    counts = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    share = pd.DataFrame(shares, index=counts.columns).T
    wanted = share * counts.sum()
    have = wanted * 0
    subset_of = {}
    for name in counts.columns[np.argsort((counts > 0).sum(), kind="stable")]:
        groups = counts.index[counts[name] > 0]
        if len(groups) < len(shares):
            raise ValueError(
                f"class {name!r} has {len(groups)} group(s) of clips ({', '.join(groups)}); {len(shares)} are needed, "
                f"one each for {' and '.join(shares)}. Add clips, or name groups otherwise (fetch.group in params.yaml)"
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
    usage(__doc__).parse_args()
    main()
