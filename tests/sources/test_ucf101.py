"""Real clips of UCF101 from a real HTTP server, and what a server, a network or an archive can do wrong."""

import errno
import io
import random
import stat
import zipfile

import pytest

from framebudget.sources import ucf101
from framebudget.sources.folder import SourceError, find_clips
from framebudget.sources.ucf101 import fetch_clips

NAMES = [f"UCF-101/{name}/v_{name}_g{g:02d}_c01.avi" for name in ("Bowling", "Diving", "Swing") for g in (1, 8, 15)]
TWO = ["Bowling", "Swing"]


def clip(name: str) -> bytes:
    return random.Random(name).randbytes(100_000)


def zipped(names: list[str], big: bool = False, **attributes: object) -> bytes:
    """attributes: set in the last member's entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items() if name == names[-1] else ():
                setattr(info, key, value)
            with archive.open(info, "w", force_zip64=big) as file:
                file.write(clip(name.rpartition("/")[2]))
    return buffer.getvalue()


@pytest.fixture
def url(server):
    server.files["UCF101_videos.zip"] = zipped(NAMES)
    return server.url + "UCF101_videos.zip"


def files(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WANTED = {name.removeprefix("UCF-101/"): clip(name.rpartition("/")[2]) for name in NAMES if "Diving" not in name}


def test_the_real_clips_come_out_of_an_archive_as_they_went_in(server, shared, tmp_path):
    source = shared / "data/ucf101_mini"
    with zipfile.ZipFile(tmp_path / "UCF101_videos.zip", "w") as archive:
        for path in sorted(source.rglob("*.avi")):
            archive.write(path, f"UCF101/{path.name}")  # flat, as THUMOS packs them
    server.files["UCF101_videos.zip"] = (tmp_path / "UCF101_videos.zip").read_bytes()
    for archive, folder in ((server.url + "UCF101_videos.zip", "http"), (str(tmp_path / "UCF101_videos.zip"), "file")):
        fetch_clips(archive, "all", tmp_path / folder)
        assert files(tmp_path / folder) == {
            path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.avi")
        }
    rows, skipped = find_clips(tmp_path / "http", r"_(g\d\d)_", ["Biking", "Diving"])
    assert len(rows) == 8
    assert {row["group"] for row in rows} == {"g01", "g02"}
    assert {reason for _, reason in skipped} == {"not among fetch.classes"}


def test_of_the_archive_only_the_wanted_classes_are_read(server, url, tmp_path):
    fetch_clips(url, TWO, tmp_path / "ucf101")
    assert files(tmp_path / "ucf101") == WANTED
    assert server.sent < 6 * 100_500 + 2**16  # and the end of the archive, with its directory
    server.asked.clear()
    fetch_clips(url, TWO, tmp_path / "ucf101")
    assert len(server.asked) == 1  # the directory


@pytest.mark.parametrize(
    "faults",
    [["cut"], ["503"], [None, "cut"], [None, "500", "503"], [None, "wrong"], [None, None, "stall"], [None, "silence"]],
)
def test_what_breaks_is_tried_again(server, url, tmp_path, faults):
    server.faults = faults.copy()
    fetch_clips(url, TWO, tmp_path / "ucf101")
    assert files(tmp_path / "ucf101") == WANTED
    assert not server.faults


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            "whole",
            "range requests.*are kept. There are three ways to continue: .*UCF-101; or download the zip",
        ),
        ("500", "500 Server Error.* three ways to continue"),
        ("wrong", r"Bad CRC-32 for file 'UCF-101/Bowling/v_Bowling_g08_c01.avi'.* three ways to continue"),
        ("cut", "three ways to continue"),
    ],
)
def test_what_stays_broken_is_one_error_and_nothing_is_lost(server, url, tmp_path, fault, says):
    server.faults, server.always = [None, None], fault  # the directory and the first clip come
    with pytest.raises(SourceError, match=says):
        fetch_clips(url, TWO, tmp_path / "ucf101")
    whole = {name: content for name, content in files(tmp_path / "ucf101").items() if name.endswith(".avi")}
    assert whole == {"Bowling/v_Bowling_g01_c01.avi": WANTED["Bowling/v_Bowling_g01_c01.avi"]}
    server.always, server.asked = None, []
    fetch_clips(url, TWO, tmp_path / "ucf101")
    assert files(tmp_path / "ucf101") == WANTED
    assert len(server.asked) == 1 + 5  # not again what was there


def test_without_network_there_are_three_ways_on(server, tmp_path):
    server.server_close()
    with pytest.raises(SourceError, match=r"-S clips=PATH/UCF-101; .*-S clips=PATH/UCF101_videos.zip"):
        fetch_clips(server.url + "UCF101_videos.zip", TWO, tmp_path / "ucf101")


def test_a_missing_archive_is_an_error_at_once(server, tmp_path):
    with pytest.raises(SourceError, match=r"404 Client Error.* three ways to continue"):
        fetch_clips(server.url + "nowhere.zip", TWO, tmp_path / "ucf101")
    assert len(server.asked) == 1


def test_a_clip_that_is_there_with_other_content_is_replaced(url, tmp_path):
    path = tmp_path / "ucf101/Swing/v_Swing_g01_c01.avi"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(100_000))
    fetch_clips(url, TWO, tmp_path / "ucf101")
    assert files(tmp_path / "ucf101") == WANTED


@pytest.mark.parametrize(
    "name", ["UCF-101/../../v_Swing_g02_c01.avi", "/tmp/v_Swing_g02_c01.avi", "v_Swing_g02_c01.avi"]
)
@pytest.mark.parametrize("mode", [stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777])
def test_a_member_that_climbs_out_or_is_a_link_is_a_file_in_the_folder_of_its_class(server, tmp_path, name, mode):
    server.files["bad.zip"] = zipped([*NAMES, name], external_attr=mode << 16)
    fetch_clips(server.url + "bad.zip", TWO, tmp_path / "ucf101")
    assert files(tmp_path) == {
        "ucf101.lock": b"",
        **{f"ucf101/{path}": content for path, content in WANTED.items()},
        "ucf101/Swing/v_Swing_g02_c01.avi": clip("v_Swing_g02_c01.avi"),
    }
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_a_clip_that_is_in_it_twice_is_refused_before_anything_is_written(server, tmp_path):
    server.files["bad.zip"] = zipped([*NAMES, "other/v_Swing_g01_c01.avi"])
    with pytest.raises(SourceError, match=r"not the archive of UCF101: .*v_Swing_g01_c01\.avi is in it twice"):
        fetch_clips(server.url + "bad.zip", TWO, tmp_path / "ucf101")
    assert not files(tmp_path / "ucf101")


@pytest.mark.parametrize(("flag", "says"), [("size", "has more than 67,108,864 bytes"), ("lock", "is encrypted")])
def test_an_entry_that_lies_is_refused(server, tmp_path, flag, says):
    content = bytearray(zipped(NAMES[:1], big=True))
    directory = content.rindex(b"PK\1\2")
    if flag == "lock":
        content[directory + 8] |= 1
    else:  # zip64: the size stands in the extra field behind the name
        name = content.rindex(b".avi") + 4
        content[directory + 24 : directory + 28] = b"\xff" * 4
        extra = b"\1\0\x08\0" + (2**42).to_bytes(8, "little")
        content[directory + 30 : directory + 32] = len(extra).to_bytes(2, "little")
        content[name:name] = extra
        end = content.rindex(b"PK\5\6")
        content[end + 12 : end + 16] = (end - directory).to_bytes(4, "little")
    server.files["bad.zip"] = bytes(content)
    with pytest.raises(SourceError, match=says):
        fetch_clips(server.url + "bad.zip", ["Bowling"], tmp_path / "ucf101")
    assert not files(tmp_path / "ucf101")


def test_a_full_disk_is_not_the_archives_fault(url, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ucf101.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left on device"):  # of which @stage says: make room
        fetch_clips(url, TWO, tmp_path / "ucf101")


def test_the_class_that_its_files_spell_otherwise(server, tmp_path):
    server.files["all.zip"] = zipped([*NAMES, "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi"])
    fetch_clips(server.url + "all.zip", ["HandstandPushups"], tmp_path / "ucf101")
    assert list(files(tmp_path / "ucf101")) == ["HandstandPushups/v_HandStandPushups_g01_c01.avi"]


def test_zip64(server, tmp_path):
    server.files["big.zip"] = zipped(NAMES, big=True)
    fetch_clips(server.url + "big.zip", TWO, tmp_path / "ucf101")
    assert files(tmp_path / "ucf101") == WANTED


def test_a_class_that_is_not_in_it_is_named_with_those_that_are(url, tmp_path):
    with pytest.raises(SourceError, match=r"no clips of Bowlin .*; there are Bowling, Diving, Swing"):
        fetch_clips(url, ["Bowlin", "Swing"], tmp_path / "ucf101")


def test_an_archive_of_something_else(server, tmp_path):
    server.files["other.zip"] = zipped(["clips/walk/1.avi"])
    with pytest.raises(SourceError, match=r"other\.zip: no clip of UCF101, .* name its folder"):
        fetch_clips(server.url + "other.zip", "all", tmp_path / "ucf101")


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_copy_on_disk_that_is_no_zip(tmp_path, content):
    path = tmp_path / "UCF101_videos.zip"
    if content is not None:
        path.write_bytes(content)
    reason = "No such file or directory" if content is None else "File is not a zip file"
    with pytest.raises(SourceError, match=rf"UCF101_videos.zip: cannot be read \({reason}\)"):
        fetch_clips(str(path), TWO, tmp_path / "ucf101")
