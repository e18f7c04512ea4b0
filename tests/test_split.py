import pandas as pd
import pytest

from framebudget.split import SUBSETS, split_groups


def manifest(sizes: dict[str, dict[str, int]]) -> pd.DataFrame:
    """{class: {group: clips}} -> rows."""
    return pd.DataFrame(
        [(name, group) for name, groups in sizes.items() for group, n in groups.items() for _ in range(n)],
        columns=["class", "group"],
    )


UNEVEN = {
    "a": {f"g{i:02d}": 1 + i % 5 for i in range(20)},
    "b": {f"g{i:02d}": 3 for i in range(10, 30)},
    "c": {f"h{i}": 7 for i in range(3)},
}


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_on_two_sides_and_no_class_is_missing_on_one(seed):
    rows = manifest(UNEVEN)
    rows["subset"] = split_groups(rows, 0.2, 0.2, seed)
    assert (rows.groupby("group")["subset"].nunique() == 1).all()
    assert (pd.crosstab(rows["class"], rows["subset"])[list(SUBSETS)] > 0).all(axis=None)


def test_shares_are_near_the_wanted_ones():
    rows = manifest({name: {f"g{i:02d}": 1 for i in range(64)} for name in "abcde"})
    rows["subset"] = split_groups(rows, 0.2, 0.2, 0)
    assert pd.crosstab(rows["class"], rows["subset"]).eq([13, 38, 13]).all(axis=None)


def test_the_seed_decides_and_the_order_of_rows_does_not():
    rows = manifest(UNEVEN)
    first = split_groups(rows, 0.2, 0.2, 1)
    assert first.equals(split_groups(rows, 0.2, 0.2, 1))
    assert first.equals(split_groups(rows.sample(frac=1, random_state=0), 0.2, 0.2, 1).sort_index())
    assert not first.equals(split_groups(rows, 0.2, 0.2, 2))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_class_with_too_few_groups_is_named(groups):
    rows = manifest(UNEVEN | {"lonely": {f"x{i}": 9 for i in range(groups)}})
    with pytest.raises(ValueError, match=f"'lonely' has {groups} group"):
        split_groups(rows, 0.2, 0.2, 0)
