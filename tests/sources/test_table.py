"""A table of clips: what it may hold, what is wrong with it, and that a stretch of a video is a clip like any other."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from framebudget import fetch, params, split
from framebudget.sources.folder import SourceError
from framebudget.sources.table import find_listed, stretch
from framebudget.video.dataset import Clips
from framebudget.video.reader import read_frames
from tests.conftest import ROOT, set_params


def written(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    for name in ("day 1/a.mp4", "b.mov"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "clips.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_two_columns_are_enough(tmp_path):
    rows, skipped = find_listed(written(tmp_path, "path,class", "day 1/a.mp4,pour", "b.mov,stir"), None)
    assert rows == [
        {"clip": "day 1/a", "path": "day 1/a.mp4", "class": "pour", "group": "day 1/a", "start": None, "end": None},
        {"clip": "b", "path": "b.mov", "class": "stir", "group": "b", "start": None, "end": None},
    ]
    assert not skipped


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_stretches_groups_and_subsets_as_programs_write_them(tmp_path, separator, encoding):
    lines = [
        "subset , class,start,end,path,note", "Train,pour,0,1.5,day 1\\a.mp4,x", "val, stir ,1.5,3,day 1/a.mp4,",
        "testing,pour,,,b.mov,", "test,sip,,2,b.mov,",
    ]  # fmt: skip
    table = written(tmp_path, *(line.replace(",", separator) for line in lines), encoding=encoding)
    rows, skipped = find_listed(table, r"^(\w+)", ["pour", "stir"])
    assert [row["clip"] for row in rows] == ["day 1/a@0-1.5", "day 1/a@1.5-3", "b"]
    assert [row["class"] for row in rows] == ["pour", "stir", "pour"]
    assert [row["group"] for row in rows] == ["day", "day", "b"]
    assert [row["subset"] for row in rows] == ["train", "validation", "test"]
    assert [(row["start"], row["end"]) for row in rows] == [(0, 1.5), (1.5, 3), (None, None)]
    assert skipped == [("column note", "not a column of a table of clips"), ("line 5", "not among fetch.classes")]


def test_an_empty_column_is_none(tmp_path):
    rows, _ = find_listed(written(tmp_path, "path,class,subset", "day 1/a.mp4,pour,", "b.mov,stir,"), None)
    assert not any("subset" in row for row in rows)


def test_the_table_names_the_group(tmp_path):
    table = written(tmp_path, "path,class,group", "day 1/a.mp4,pour,Zoë", "b.mov,stir,")
    assert [row["group"] for row in find_listed(table, None)[0]] == ["Zoë", "b"]


@pytest.mark.parametrize(("lines", "says"), [
    (["file,class", "b.mov,stir"], "no column path; there are file, class"),
    (["path,class", "b.mov,stir,1"], "line 2: 3 cells, but 2 columns"),
    (["path,class", "b.mov,stir", "", "c.mov,pour"], "line 4: c.mov: no such file"),
    (["path,class", "../b.mov,stir", "/b.mov,pour"], r"line 2: \.\./b\.mov is not .*\nline 3: /b\.mov is not below"),
    (["path,class", "b.mov,"], "line 2: class is empty"),
    (["path,class", ",stir"], "line 2: path is empty"),
    (["path,class,start,end", "b.mov,stir,2,1"], "line 2: start and end are 2 and 1; they must be seconds"),
    (["path,class,start,end", "b.mov,stir,soon,1"], "line 2: start and end are soon and 1"),
    (["path,class,start,end", "b.mov,stir,-1,1"], "line 2: start and end are -1 and 1"),
    (["path,class,start,end", "b.mov,stir,0,inf"], "line 2: start and end are 0 and inf"),
    (["path,class,subset", "b.mov,stir,dev"], "line 2: subset is dev; it must be train, validation or test"),
    (["path,class,subset", "b.mov,stir,train", "day 1/a.mp4,pour,"], "line 3: no subset, but other lines have one"),
    (["path,class", "b.mov,stir", "b.mov,pour"], "line 3: the same clip as line 2"),
    (["path,class", "b.mov,stir", "b.mp4,pour"], r"\nline 3: the same name as line 2, but for its suffix or"),
    (["path,class", "b.mov,stir\x1b[2J"], "line 2: clip, class or group has characters that control a terminal"),
    (["path,class", "b.mov,stir", "day 1/a.mp4,stir"], "clips of at least two classes are needed"),
    (["path,class", *["c.mov,stir"] * 12], r"line 2: .*(\nline \d+: .*){9}\nand 13 more$"),
])  # fmt: skip
def test_every_fault_names_its_line(tmp_path, lines, says):
    with pytest.raises(SourceError, match=rf"clips\.csv:(\s|\n).*?{says}"):
        find_listed(written(tmp_path, *lines), None)


def test_a_class_that_no_row_has(tmp_path):
    table = written(tmp_path, "path,class", "b.mov,stir", "day 1/a.mp4,pour")
    with pytest.raises(SourceError, match=r"clips\.csv: no clip of Stirr, but fetch.classes names it"):
        find_listed(table, None, ["Stirr", "stir", "pour"])


def test_a_stretch_without_an_end_has_a_name(tmp_path):
    rows, _ = find_listed(written(tmp_path, "path,class,start", "b.mov,stir,1.5", "day 1/a.mp4,pour,"), None)
    assert [row["clip"] for row in rows] == ["b@1.5-", "day 1/a"]


def test_a_table_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceError, match=r"clips\.csv: No such file"):
        find_listed(tmp_path / "clips.csv", None)
    unclosed = ["path,class", 'b.mov,"stir', *[f"day {day}/a.mp4,pour" for day in range(9000)]]
    with pytest.raises(SourceError, match=r'clips\.csv:\nline \d+: field larger .*; perhaps a " is not closed'):
        find_listed(written(tmp_path, *unclosed), None)
    with pytest.raises(SourceError, match=r"clips\.csv: not UTF-8; save it as CSV UTF-8"):
        find_listed(written(tmp_path, "path,class", "b.mov,rühren", encoding="latin-1"), None)


def test_a_stretch_in_frames():
    assert stretch(None, None, "a", 100, 25) == (0, 100)
    assert stretch(1, 2.52, "a", 100, 25) == (25, 38)
    assert stretch(3, 4.9, "a", 100, 25) == (75, 25)
    assert stretch(3, 3.001, "a", 100, 25) == (75, 1)
    for start, end in [(4, None), (3, 5.1)]:
        with pytest.raises(SourceError, match=r"a: a clip from \d.* s is listed, but the video ends after 4\.00 s"):
            stretch(start, end, "a", 100, 25)


def test_stretches_of_one_video_are_clips_of_one_group_with_the_split_of_the_table(
    tmp_path, monkeypatch, clips, capsys
):
    """From the table to the frames that a network sees."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    names = sorted(path.relative_to(clips).as_posix() for path in clips.glob("*/*_g0[1-3]_*.avi"))
    subsets = dict(zip(names, ["train", "train", "test"] * 3, strict=True))
    lines = [
        f"{name},{name.split('/')[0]},{subsets[name]},{start},{start + 0.4}" for name in names for start in (0, 0.4)
    ]
    shutil.copytree(clips, tmp_path / "videos")
    table = tmp_path / "videos/clips.csv"
    table.write_text("\n".join(["path,class,subset,start,end", *lines]) + "\n")
    set_params(tmp_path, dataset="folder", clips=str(table))
    fetch.main()
    assert "18 clips of 3 classes:\n     6  Approach, in 3 groups: Approach/v_" in capsys.readouterr().out
    manifest = pd.read_csv("work/manifest.csv")
    assert manifest["first"].tolist() == [0, 10] * 9
    assert manifest["frames"].eq(10).all()
    assert manifest["seconds"].eq(0.4).all()
    split.main()
    said = capsys.readouterr().out
    assert "the split is that of the table of clips" in said
    assert "0 of 6 test clips share their group" in said
    rows = pd.read_csv("work/split.csv")
    assert rows["subset"].eq("test").equals(rows["listed_subset"].eq("test"))
    assert rows.loc[rows["listed_subset"] == "train", "subset"].value_counts().to_dict() == {
        "train": 6,
        "validation": 6,
    }
    assert rows.groupby("path")["subset"].nunique().eq(1).all()
    spec = params.load().data.input.model_copy(update={"window": None, "short_side": 84, "crop": 64})
    rows[["frame_index", "shown"]] = None
    data = Clips(tmp_path / "videos", rows, 4, spec, seed=0, views=1)
    frames_VTHWC = data[0, 1][0].numpy()
    assert np.array_equal(frames_VTHWC[0], read_frames(tmp_path / "videos" / rows["path"][1], [10, 13, 16, 19], 84))
