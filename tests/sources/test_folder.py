import os
import unicodedata

import pytest

from framebudget.sources.folder import SourceError, find_clips


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_rows_are_sorted_and_other_files_are_skipped(tmp_path):
    touch(tmp_path, "b/x_g2.MP4", "a/sub/x_g1.avi", "a/notes.txt", "stray.avi")
    rows, skipped = find_clips(tmp_path, r"_(g\d)")
    assert rows == [
        {"clip": "a/sub/x_g1", "path": "a/sub/x_g1.avi", "class": "a", "group": "g1"},
        {"clip": "b/x_g2", "path": "b/x_g2.MP4", "class": "b", "group": "g2"},
    ]
    assert skipped == [("a/notes.txt", "not a video by its suffix"), ("stray.avi", "in no class folder")]


def test_folders_as_people_have_them(tmp_path):
    """Hidden files, among them the ._ twins of a Mac, links to folders, folders of the system; upper case; emoji."""
    touch(
        tmp_path,
        ".Trash-1000/a/x.mov",
        "$RECYCLE.BIN/x.mov",
        ".DS_Store",
        "a/._x.mov",
        "a/x.MOV",
        "a/.cache/y.mp4",
        "__MACOSX/a/._x.mov",
        "wave 👋/推 1.MP4",
    )
    (tmp_path / "a/elsewhere").symlink_to(tmp_path / "wave 👋", target_is_directory=True)
    rows, skipped = find_clips(tmp_path, None)
    assert [row["clip"] for row in rows] == ["a/x", "wave 👋/推 1"]
    assert dict(skipped) == {
        "$RECYCLE.BIN": "a system folder",
        ".DS_Store": "hidden",
        ".Trash-1000": "hidden",
        "__MACOSX": "a system folder",
        "a/._x.mov": "hidden",
        "a/.cache": "hidden",
        "a/elsewhere": "a link to a folder; put the folder itself here",
    }


def test_a_name_is_the_same_however_its_accents_are_stored(tmp_path):
    """Or one person's clips would be two groups, and could stand on both sides of a split."""
    split = unicodedata.normalize("NFD", "Jürgen")
    touch(tmp_path, f"Tür/{split} 1.mov", unicodedata.normalize("NFD", "Tür") + "/Jürgen 2.mov", "b/Jürgen 3.mov")
    rows, _ = find_clips(tmp_path, r"(\w+) \d", ["Tür", unicodedata.normalize("NFD", "b")])
    assert {row["group"] for row in rows} == {"Jürgen"}
    assert {row["class"] for row in rows} == {"Tür", "b"}
    assert all((tmp_path / row["path"]).exists() for row in rows)


def test_a_sub_folder_may_name_the_group(tmp_path):
    rows, _ = find_clips(touch(tmp_path, "a/anna/1.mov", "a/ben/1.mov", "b/anna/1.mov"), "^[^/]+")
    assert [row["group"] for row in rows] == ["anna", "ben", "anna"]


def test_a_pattern_may_have_alternatives(tmp_path):
    rows, _ = find_clips(touch(tmp_path, "a/anna 1.mp4", "a/take_ben.mp4", "b/anna 2.mp4"), r"(\w+) \d|take_(\w+)")
    assert [row["group"] for row in rows] == ["anna", "ben", "anna"]


@pytest.mark.parametrize(
    ("name", "printed"),
    [(os.fsdecode(b"b/caf\xe9.mp4"), r"b/caf\\udce9.mp4"), ("b\n/\x1b[2J.mp4", r"b\\n/\\x1b\[2J.mp4")],
)
def test_a_name_that_no_table_or_terminal_can_hold_is_an_error(tmp_path, name, printed):
    touch(tmp_path, "a/1.mp4", "b/1.mp4", name)
    with pytest.raises(
        SourceError, match=rf"names that are not UTF-8, or .* control a terminal: {printed}; rename them"
    ):
        find_clips(tmp_path, None)


def test_a_folder_that_is_empty_cannot_write_to_the_terminal(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4")
    (tmp_path / "\x1b[2J").mkdir()
    with pytest.raises(SourceError, match=r"control a terminal: \\x1b\[2J; rename them"):
        find_clips(tmp_path, None)


def test_an_empty_folder_whose_accents_are_stored_apart(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4")
    (tmp_path / unicodedata.normalize("NFD", "Tür")).mkdir()
    with pytest.raises(SourceError, match="Tür: no video in this class"):
        find_clips(tmp_path, None)


def test_classes_that_are_not_wanted_are_skipped_once(tmp_path):
    _, skipped = find_clips(touch(tmp_path, "a/1.avi", "b/1.avi", "c/1.avi", "c/d/2.avi"), None, ["a", "b"])
    assert skipped == [("c", "not among fetch.classes")]


def test_without_a_pattern_each_clip_is_a_group(tmp_path):
    rows, _ = find_clips(touch(tmp_path, "a/1.avi", "b/1.avi"), None)
    assert [row["group"] for row in rows] == ["a/1", "b/1"]


@pytest.mark.parametrize(
    ("names", "pattern", "says"),
    [
        (["a/1.avi", "b/readme.txt"], None, "b: no video in this class"),
        (["a/1.avi"], None, "at least two classes"),
        ([], None, "at least two classes"),
        (["a/g1.avi", "b/other.avi"], r"g\d", r"`fetch.group`, g\\d, does not match .*other.avi"),
        (
            ["a/1.avi", "a/1.mp4", "b/1.avi"],
            None,
            r"a/1.avi and a/1.mp4: they differ only in suffix or form of accents",
        ),
        (["a/1.avi", "b/.1.avi"], None, "b: no video in this class"),
        (["a/g1.avi", "b/x.avi", "b/y.avi"], r"(g\d)?", "does not match .*b/x.avi, b/y.avi"),
        (["train/1.avi", "Val/2.avi", "test/3.avi"], None, "Val, test, train are subsets, not classes; move"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, names, pattern, says):
    with pytest.raises(SourceError, match=says):
        find_clips(touch(tmp_path, *names), pattern)


def test_class_folders_that_are_links_are_named(tmp_path):
    touch(tmp_path, "elsewhere/1.avi")
    for name in ("bow", "wave"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    for name in ("clap", "jump"):  # enough classes without the links
        touch(tmp_path / "clips", f"{name}/1.avi")
    with pytest.raises(SourceError, match=r"bow \(a link to a folder; put .* wave \(a link.*fetch\.classes"):
        find_clips(tmp_path / "clips", None)
    assert len(find_clips(tmp_path / "clips", None, ["clap", "jump"])[0]) == 2


def test_links_to_files_are_followed_and_those_that_lead_nowhere_are_named(tmp_path):
    touch(tmp_path, "elsewhere/1.avi")
    for name in ("a/1.avi", "b/2.avi"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True)
        (tmp_path / "clips" / name).symlink_to(tmp_path / "elsewhere/1.avi")
    assert len(find_clips(tmp_path / "clips", None)[0]) == 2
    (tmp_path / "elsewhere/1.avi").unlink()
    with pytest.raises(SourceError, match=r"links that lead nowhere: a/1\.avi, b/2\.avi; .*dvc pull data\.dvc"):
        find_clips(tmp_path / "clips", None)


def test_a_missing_folder(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        find_clips(tmp_path / "nowhere", None)
    (tmp_path / "my.zip").touch()
    with pytest.raises(SourceError, match=r"my\.zip: a file; `clips` is a folder or a table, .csv or .tsv; unpack"):
        find_clips(tmp_path / "my.zip", None)


def test_such_a_name_of_what_is_skipped_anyway_does_no_harm(tmp_path):
    _, skipped = find_clips(touch(tmp_path, "a/1.mp4", "b/1.mp4", "b/Icon\r"), None)
    assert skipped == [("b/Icon\\r", "not a video by its suffix")]
