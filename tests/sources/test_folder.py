import pytest

from framebudget.sources.folder import SourceError, find_clips


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_rows_are_sorted_and_what_is_no_clip_is_said(tmp_path):
    touch(tmp_path, "b/x_g2.MP4", "a/sub/x_g1.avi", "a/notes.txt", "stray.avi")
    rows, skipped = find_clips(tmp_path, r"_(g\d)")
    assert rows == [
        {"clip": "a/sub/x_g1", "path": "a/sub/x_g1.avi", "class": "a", "group": "g1"},
        {"clip": "b/x_g2", "path": "b/x_g2.MP4", "class": "b", "group": "g2"},
    ]
    assert skipped == [("a/notes.txt", "not a video by its suffix"), ("stray.avi", "in no class folder")]


def test_without_a_pattern_each_clip_is_a_group(tmp_path):
    rows, _ = find_clips(touch(tmp_path, "a/1.avi", "b/1.avi"), None)
    assert [row["group"] for row in rows] == ["a/1", "b/1"]


@pytest.mark.parametrize(
    ("names", "pattern", "says"),
    [
        (["a/1.avi", "b/readme.txt"], None, "b: no video in this class"),
        (["a/1.avi"], None, "at least two classes"),
        ([], None, "at least two classes"),
        (["a/g1.avi", "b/other.avi"], r"g\d", r"the name does not match.*other.avi"),
        (["a/1.avi", "a/1.mp4", "b/1.avi"], None, "differ in the suffix alone"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, names, pattern, says):
    with pytest.raises(SourceError, match=says):
        find_clips(touch(tmp_path, *names), pattern)


def test_a_missing_folder(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        find_clips(tmp_path / "nowhere", None)
