import shutil
import sys

import pandas as pd
import pytest

from framebudget.console import SPLIT, UserError, read_csv, write_csv
from framebudget.params import Split
from framebudget.split import (
    as_published,
    leaked,
    listed,
    main,
    official_test,
    split_groups,
    subsets,
)
from tests.conftest import ROOT, set_params

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
STUDY = ["BlowDryHair", "Bowling", "PlayingFlute", "SoccerPenalty", "TrampolineJumping"]


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
    rows["subset"] = split_groups(rows, SHARES, seed)
    assert (rows.groupby("group")["subset"].nunique() == 1).all()
    assert (pd.crosstab(rows["class"], rows["subset"])[list(SHARES)] > 0).all(axis=None)


def test_shares_are_near_the_wanted_ones():
    rows = manifest({name: {f"g{i:02d}": 1 for i in range(64)} for name in "abcde"})
    rows["subset"] = split_groups(rows, SHARES, 0)
    assert pd.crosstab(rows["class"], rows["subset"]).eq([13, 38, 13]).all(axis=None)


def test_the_seed_decides_and_the_order_of_rows_does_not():
    rows = manifest(UNEVEN)
    first = split_groups(rows, SHARES, 1)
    assert first.equals(split_groups(rows, SHARES, 1))
    assert first.equals(split_groups(rows.sample(frac=1, random_state=0), SHARES, 1).sort_index())
    assert not first.equals(split_groups(rows, SHARES, 2))


@pytest.fixture
def ucf101(shared) -> pd.DataFrame:
    """All clips of UCF101, with their place in the official lists: trainlist1, 2, 3."""
    lists = {}
    for number in (1, 2, 3):
        for side in ("train", "test"):
            text = (shared / f"data/ucf101_splits/{side}list{number:02d}.txt").read_bytes().decode()
            lists[number, side] = [line.split()[0] for line in text.splitlines()]
    rows = pd.DataFrame({"path": sorted(lists[1, "train"] + lists[1, "test"])})
    rows["clip"] = rows["path"].str.removesuffix(".avi")
    rows["class"] = rows["path"].str.split("/").str[0]
    rows = rows.sort_values(["class", "path"], key=lambda column: column.str.lower(), kind="stable")  # as the lists are
    rows["group"] = rows["path"].str.extract(r"v_(.+_g\d\d)_", expand=False)
    rows.attrs = lists
    return rows


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_official_lists_follow_from_the_groups_line_by_line(ucf101, number):
    test = official_test(ucf101, number)
    assert len(ucf101) == 13320
    for side, rows in (("test", ucf101[test]), ("train", ucf101[~test])):
        assert rows["path"].tolist() == ucf101.attrs[number, side]


def rule(**changes) -> Split:
    keys = {"by": "group", "test": 0.2, "official": None, "folds": None, "validation": 0.2, "seed": 0}
    return Split(**keys | changes)


def test_the_five_classes_have_497_and_200_clips_on_the_second_list(ucf101):
    five = ucf101[ucf101["class"].isin(STUDY)]
    [subset] = subsets(five, rule(test=None, official=2))
    counts = pd.crosstab(five["class"], subset)
    assert counts["test"].tolist() == [40, 43, 42, 40, 35]
    assert (counts["train"] + counts["validation"]).tolist() == [91, 112, 113, 97, 84]
    assert counts["validation"].sum() == pytest.approx(0.2 * 497, abs=14)  # whole groups of about 28
    assert (five.groupby("group").apply(lambda rows: subset[rows.index].nunique()) == 1).all()


@pytest.mark.parametrize(("official", "side"), [(1, "training"), (3, "test")])
def test_a_part_of_ucf101_that_is_on_one_list_alone_is_an_error(official, side):
    rows = manifest({"Biking": {"g01": 3, "g02": 1}, "Diving": {"g01": 5, "g20": 2}})
    with pytest.raises(UserError, match=f"class 'Biking' has no clip on the {side} list {official}"):
        subsets(rows, rule(test=None, official=official))


def test_as_published_what_should_be_tested_on_chooses_and_the_test_leaks(ucf101):
    five = ucf101[ucf101["class"].isin(STUDY)].copy()
    [sound] = subsets(five, rule(test=None, official=2))
    five["subset"] = as_published(sound, 0)
    assert (five["subset"] == "validation").equals(sound == "test")
    assert five["subset"].value_counts().to_dict() == {"train": 482, "validation": 200, "test": 15}
    assert leaked(five) == 15
    assert not five["subset"].equals(as_published(sound, 1))


def test_a_split_by_clip_leaks_and_one_by_group_does_not():
    rows = manifest({name: {f"g{i:02d}": 5 for i in range(20)} for name in "abc"})
    rows["clip"] = rows.index.astype(str)
    for by, leaks in (("group", False), ("clip", True)):
        [rows["subset"]] = subsets(rows, rule(by=by))
        assert rows["subset"].value_counts().to_dict() == {"train": 180, "validation": 60, "test": 60}
        assert bool(leaked(rows)) == leaks


@pytest.mark.parametrize("folds", [3, 5, 20])
def test_in_cross_validation_every_clip_is_tested_once_and_no_group_is_on_two_sides(folds):
    rows = manifest({name: {f"g{i:02d}": 1 + i % 3 for i in range(20)} for name in "abc"})
    found = subsets(rows, rule(folds=folds))
    assert len(found) == folds
    assert (sum((subset == "test").astype(int) for subset in found) == 1).all()
    for subset in found:
        assert (subset.groupby(rows["group"]).nunique() == 1).all()
        assert (pd.crosstab(rows["class"], subset)[list(SHARES)] > 0).all(axis=None)
        assert (subset == "test").mean() == pytest.approx(1 / folds, abs=0.05)


def test_more_folds_than_a_class_has_groups_are_refused():
    with pytest.raises(UserError, match=r"class 'a' has 3 group.*4 are needed"):
        subsets(manifest({name: {"g1": 2, "g2": 2, "g3": 2} for name in "ab"}), rule(folds=4))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_class_with_too_few_groups_is_named(groups):
    rows = manifest(UNEVEN | {"lonely": {f"x{i}": 9 for i in range(groups)}})
    with pytest.raises(UserError, match=f"'lonely' has {groups} group"):
        split_groups(rows, SHARES, 0)


def test_this_very_split_follows_from_these_clips_and_this_seed():
    """Classes with few groups before the others, large groups first, equal ones by the seed's order."""
    many = {f"m{i:02d}": 1 + i % 4 for i in range(40)}
    rare = {f"f{i}": 5 for i in range(4)} | {f"m{i:02d}": 2 for i in range(0, 40, 7)}
    rows = manifest({"many": many, "rare": rare})
    subset = split_groups(rows, SHARES, 3).map({"train": "-", "validation": "V", "test": "T"})
    assert "".join(subset.groupby(rows["group"]).first()) == "T--V-V---V--T---VV--TT--VTV--TT---T-TVVV-TT-"


def test_a_class_whose_groups_others_have_placed_on_one_side_is_named():
    rows = manifest({name: {f"{name}1": 9, f"{name}2": 5, f"{name}3": 5} for name in "abc"})
    split_groups(rows, SHARES, 0)  # three groups are enough
    rows = pd.concat([rows, manifest({"z": {"a1": 1, "b1": 1, "c1": 1}})], ignore_index=True)
    with pytest.raises(UserError, match=r"class 'z' is missing in validation, test: it shares its groups"):
        split_groups(rows, SHARES, 0)


def study(folder, rows: pd.DataFrame, monkeypatch, **changes) -> pd.DataFrame:
    """What the stage makes of a manifest."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["split"])
    shutil.copy(ROOT / "params.yaml", folder)
    set_params(folder, dataset="folder", **changes)
    rows = rows.assign(clip=rows.index.astype(str), path="x.avi", first=0, frames=30, fps=25.0, sha256="0")
    write_csv(rows, folder / "work/manifest.csv")
    main()
    return read_csv(folder / "work/split.csv", SPLIT)


TEN = manifest({name: {f"g{i:02d}": 4 for i in range(10)} for name in "bac"})


def test_the_stage_numbers_the_classes_by_name_and_counts_what_leaks(tmp_path, monkeypatch, capsys):
    split = study(tmp_path, TEN, monkeypatch)
    assert split.drop_duplicates("class").set_index("class")["label"].to_dict() == {"a": 0, "b": 1, "c": 2}
    assert split["fold"].eq(0).all()
    assert split["clip"].tolist() == [str(i) for i in range(120)]
    assert split["subset"].tolist() == subsets(TEN, rule())[0].tolist()
    assert capsys.readouterr().out == "0 of 24 test clips share their group with clips of training or validation\n"


def test_the_stage_says_that_no_groups_are_known(tmp_path, monkeypatch, capsys):
    study(tmp_path, TEN.assign(group=[str(i) for i in range(len(TEN))]), monkeypatch)
    assert capsys.readouterr().out.startswith("no groups are known: the 24 test clips may show people")


def test_the_stage_in_cross_validation_and_as_published(tmp_path, monkeypatch, capsys):
    split = study(tmp_path, TEN, monkeypatch, **{"datasets.folder.split.folds": 5})
    expected = subsets(TEN, rule(folds=5))
    assert split["fold"].tolist() == [fold for fold in range(5) for _ in range(120)]
    assert split["subset"].tolist() == [name for subset in expected for name in subset]
    assert capsys.readouterr().out.startswith("0 of 120 test clips")
    split = study(tmp_path, TEN, monkeypatch, protocol="published")
    assert split["subset"].tolist() == as_published(subsets(TEN, rule())[0], 0).tolist()
    assert capsys.readouterr().out.startswith("3 of 3 test clips")


@pytest.mark.parametrize(("training", "test"), [(1000, 30), (100, 3), (50, 2), (10, 1)])
def test_as_published_three_in_a_hundred_of_what_is_trained_on_are_the_test(training, test):
    sound = pd.Series(["train"] * (training - 4) + ["validation"] * 4 + ["test"] * 7)
    subset = as_published(sound, 0)
    assert subset.value_counts().to_dict() == {"train": training - test, "validation": 7, "test": test}
    assert subset[sound == "test"].eq("validation").all()


def test_the_official_lists_test_on_seven_groups_each():
    rows = manifest({"a": {f"a_g{number:02d}": 1 for number in range(1, 26)}})
    lists = [rows.loc[official_test(rows, number), "group"].tolist() for number in (1, 2, 3)]
    assert lists == [[f"a_g{number:02d}" for number in range(first, first + 7)] for first in (1, 8, 15)]


def test_all_official_lists_are_three_folds_that_share_no_test_clip():
    rows = manifest({name: {f"{name}_g{number:02d}": 2 for number in range(1, 26)} for name in "ab"})
    folds = subsets(rows, rule(test=None, official="all"))
    for number, fold in enumerate(folds, start=1):
        assert (fold == "test").equals(official_test(rows, number))
        assert fold.equals(subsets(rows, rule(test=None, official=number))[0])
    assert sum((fold == "test").astype(int) for fold in folds).tolist() == ([1] * 42 + [0] * 8) * 2


def test_a_class_of_a_table_that_is_only_tested_is_an_error():
    rows = manifest({"a": {"g1": 1, "g2": 1}, "b": {"g3": 1}}).assign(listed_subset=["train", "test", "test"])
    rule = Split(by="group", test=0.2, official=None, folds=None, validation=0.2, seed=0)
    with pytest.raises(UserError, match="the table of clips has no clip of class 'b' with subset train"):
        listed(rows, rule)
