"""Split the clips into training, validation and test, by group.

    $ python -m framebudget.split           (dvc repro split)

reads   work/manifest.csv       one row per clip, from fetch
        params.yaml             protocol, datasets.<dataset>.split
writes  work/split.csv          the manifest, with label (0 … K-1, classes sorted by name), fold and subset; cross-
                                validation repeats it for every fold

A group is on one side only: its clips share a person, a scene or a source video, and a network that has seen one clip
recognizes the others by their background. `by: clip` splits without regard to groups, to measure how much that matters.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from framebudget import params
from framebudget.console import MANIFEST, UserError, read_csv, stage, usage, write_csv
from framebudget.params import Split

LISTED = "listed_subset"  # what a table of clips says


@stage
def main() -> None:
    manifest = read_csv(Path("work/manifest.csv"), MANIFEST)
    p = params.load()
    rule = p.data.split
    manifest["label"] = manifest["class"].astype("category").cat.codes
    manifest = manifest.rename(columns={"subset": LISTED})
    folds = [listed(manifest, rule)] if LISTED in manifest else subsets(manifest, rule)
    if p.protocol == "published":
        folds = [as_published(subset, rule.seed) for subset in folds]
    split = pd.concat([manifest.assign(fold=fold, subset=subset) for fold, subset in enumerate(folds)])
    test, leaks = (split["subset"] == "test").sum(), sum(leaked(rows) for _, rows in split.groupby("fold"))
    if manifest["group"].equals(manifest["clip"]):
        print(f"no groups are known: the {test} test clips may show people, scenes or videos that are trained on")
    else:
        print(f"{leaks} of {test} test clips share their group with clips of training or validation")
    write_csv(split, Path("work/split.csv"))


def listed(manifest: pd.DataFrame, rule: Split) -> pd.Series:
    """The subset of each row, from the table of clips. If it has no validation clips, a part of training becomes them.

    Raises UserError.
    """
    subset = manifest[LISTED]
    print("the split is that of the table of clips: split.test, official and folds are not used")
    if missing := {"train", "test"} - set(subset):
        raise UserError(
            f"the table of clips has no clip with subset {' or '.join(sorted(missing))}; it needs train and test"
        )
    for name, of_class in subset.groupby(manifest["class"]):
        if "train" not in set(of_class):
            raise UserError(f"the table of clips has no clip of class {name!r} with subset train")
    if "validation" not in set(subset):
        training = manifest[subset == "train"]
        shares = {"train": 1 - rule.validation, "validation": rule.validation}
        subset = split_groups(training, shares, rule.seed).reindex(manifest.index, fill_value="test")
    return subset


def leaked(split: pd.DataFrame) -> int:
    """How many test clips share their group with a clip of another subset."""
    test = split["subset"] == "test"
    return int(split.loc[test, "group"].isin(split.loc[~test, "group"]).sum())


def subsets(manifest: pd.DataFrame, rule: Split) -> list[pd.Series]:
    """The subset of each row in each fold; one fold, unless the rule says otherwise. Raises UserError.

    By fractions; by one of UCF101's official test lists; by all three lists, which are folds that test different
    clips; or by cross-validation with `rule.folds` folds, which tests every clip once.
    """
    units = manifest if rule.by == "group" else manifest.assign(group=manifest["clip"])  # `group`: clips kept together
    shares = {"train": 1 - rule.validation, "validation": rule.validation}
    if rule.folds:
        names = [f"fold {fold}" for fold in range(rule.folds)]
        fold = split_groups(units, dict.fromkeys(names, 1 / rule.folds), rule.seed)
        tests = [fold == name for name in names]
    elif rule.official:
        lists = [1, 2, 3] if rule.official == "all" else [rule.official]
        tests = [official_test(manifest, number) for number in lists]
    else:
        shares = {"train": 1 - rule.validation - rule.test, "validation": rule.validation, "test": rule.test}
        return [split_groups(units, shares, rule.seed)]
    others = (split_groups(units[~test], shares, rule.seed) for test in tests)
    return [subset.reindex(manifest.index, fill_value="test") for subset in others]


def official_test(manifest: pd.DataFrame, number: int) -> pd.Series:
    """Whether each row is on UCF101's test list 1, 2 or 3. Raises UserError if a class is on one side only.

    The lists test seven groups of every class: g01-g07, g08-g14 or g15-g21. The manifest's groups begin with the class:
    g01 of one class and g01 of another are different groups.
    """
    test = manifest["group"].str[-3:].isin([f"g{group:02d}" for group in range(7 * number - 6, 7 * number + 1)])
    for name, in_test in test.groupby(manifest["class"]):
        if in_test.nunique() < 2:
            side = "training" if in_test.all() else "test"
            raise UserError(
                f"class {name!r} has no clip on the {side} list {number} (split.official in params.yaml); "
                "for a part of UCF101 set split.official to null and split.test to a fraction"
            )
    return test


def as_published(subset: pd.Series, seed: int) -> pd.Series:
    """Split as the original study did: the test clips choose the epoch, and 3% of the training clips are tested."""
    subset = subset.map({"train": "train", "validation": "train", "test": "validation"})
    training = subset.index[subset == "train"]
    subset[np.random.default_rng(seed).choice(training, max(1, round(0.03 * len(training))), replace=False)] = "test"
    return subset


def split_groups(manifest: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """The subset of each row, near-stratified by class. shares: the fraction of the clips for each subset.

    The classes with the fewest groups choose first. Each of their groups, the largest first, goes to the subset that
    has no clip of the class yet, or else to the one that lacks the most of its share (after iterative stratification,
    Sechidis et al. 2011). Raises UserError if a class has too few groups for all subsets.
    """
    counts = pd.crosstab(manifest["group"], manifest["class"])  # groups × classes, clips
    counts = counts.iloc[np.random.default_rng(seed).permutation(len(counts))]
    wanted = pd.DataFrame(shares, index=counts.columns).T * counts.sum()
    have = wanted * 0
    subset_of = {}
    for name in counts.columns[np.argsort((counts > 0).sum(), kind="stable")]:
        groups = counts.index[counts[name] > 0]
        if len(groups) < len(shares):
            raise UserError(
                f"class {name!r} has {len(groups)} group(s) of clips ({', '.join(groups)}); {len(shares)} are needed, "
                f"one each for {' and '.join(shares)}. Add clips, or change the groups (fetch.group in params.yaml)"
            )
        for group in groups[np.argsort(-counts.loc[groups, name], kind="stable")]:
            if group not in subset_of:
                lack = (wanted - have)[name].mask(have[name] == 0, np.inf)
                subset_of[group] = lack.idxmax()
                have.loc[subset_of[group]] += counts.loc[group]
        if missing := ", ".join(have.index[have[name] == 0]):
            way_out = "it shares its groups with other classes; try another split.seed in params.yaml"
            raise UserError(f"class {name!r} is missing in {missing}: {way_out}")
    return manifest["group"].map(subset_of)


if __name__ == "__main__":
    usage(__doc__).parse_args()
    main()
