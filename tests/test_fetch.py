"""Which files of a folder `fetch` uses, which it skips, and what it prints about both."""

import re
import resource
import shutil
import sys
import zipfile
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from threading import Timer

import pandas as pd
import pytest

from framebudget import fetch
from tests.conftest import ROOT, set_params


@pytest.fixture
def fetched(tmp_path, monkeypatch, clips, capsys):
    """The clips in a folder of our own, and a function that runs fetch on it: (what it prints, what it skips)."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(clips, tmp_path / "clips")

    def run(group=None):
        set_params(tmp_path, dataset="folder", clips="clips", **{"datasets.folder.fetch.group": group})
        fetch.main()
        return capsys.readouterr().out, pd.read_csv("work/skipped.csv").set_index("path")["reason"].to_dict()

    run.folder = tmp_path / "clips"
    return run


def test_no_more_clips_at_once_than_memory_and_limits_allow(fetched, monkeypatch):
    pools = []
    pool = fetch.ProcessPoolExecutor
    monkeypatch.setattr(fetch, "ProcessPoolExecutor", lambda number, **more: pools.append(number) or pool(1, **more))
    monkeypatch.setattr(fetch, "cores", lambda: 64)
    monkeypatch.setattr(fetch, "memory", lambda: 5 * 2**30)
    fetched()
    assert pools == [2]


def test_clips_of_ones_own_are_not_those_of_motion(fetched):
    for path in fetched.folder.iterdir():
        path.rename(fetched.folder / f"my {path.name}")
    set_params(fetched.folder.parent, clips="clips")
    with pytest.raises(SystemExit, match=r"clips: not the clips of motion; .* add -S dataset=folder"):
        fetch.main()
    (fetched.folder / "clips.csv").write_text("path,class\n")
    set_params(fetched.folder.parent, clips="clips/clips.csv")
    with pytest.raises(SystemExit, match="not the clips of motion"):
        fetch.main()


def kept_hard_limit() -> bool:
    """Whether a limit of 1 GiB more than this process has is as it was, although `confine` would set 2."""
    held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limits = (held + 2**30, held + 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, limits)
    fetch.confine()
    return resource.getrlimit(resource.RLIMIT_DATA) == limits


@pytest.mark.skipif(sys.platform != "linux", reason="fetch limits memory on Linux alone")
def test_a_hard_limit_is_kept():
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(kept_hard_limit).result(60)


def test_what_is_used_and_what_is_skipped(fetched):
    (fetched.folder / "notes.txt").touch()
    first = fetched.folder / "Recede/v_Recede_g01_c01.avi"
    shutil.copy(first, first.with_stem(first.stem + " (1)"))
    output, skipped = fetched(r"_(g\d+)_")
    assert "15 clips of 3 classes:\n     5  Approach, in 5 groups: g01, g02, g03 and 2 more\n" in output
    assert "in 5 groups\n" in output
    assert "skipped, not a video by its suffix: notes.txt\n" in output
    assert skipped == {
        "notes.txt": "not a video by its suffix",
        "Recede/v_Recede_g01_c01 (1).avi": "the same bytes as Recede/v_Recede_g01_c01.avi",
    }
    assert len(pd.read_csv("work/manifest.csv")) == 15
    assert "(1)" not in (fetched.folder.parent / "work/index.json").read_text()


def test_nothing_skipped_nothing_printed_about_it(fetched):
    output, skipped = fetched()
    assert "skipped" not in output
    assert "every clip is its own group" in output
    assert not skipped


@pytest.mark.parametrize(
    ("name", "pattern", "pair"),
    [("v_G01_c.avi", r"_([gG]\d+)_", "G01 and g01"), ("Day 1/v_g01_c.avi", r"(.*g\d+)_", "Day 1/v_g01 and v_g01")],
)
def test_groups_that_differ_only_in_case_or_folder_are_named(fetched, name, pattern, pair):
    for path in fetched.folder.glob("*/*.avi"):
        path.rename(path.with_name("v" + path.stem.removeprefix(f"v_{path.parent.name}") + ".avi"))
    path = fetched.folder / "Recede/v_g01_c01.avi"
    path.parent.joinpath("Day 1").mkdir()
    path.rename(path.parent / name)
    assert f"groups {pair} differ only in case or folder" in fetched(pattern)[0]


def test_classes_that_differ_only_in_case_or_spaces_are_named(fetched):
    (fetched.folder / "Approach").rename(fetched.folder / "recede ")
    assert "classes 'Recede' and 'recede ' differ only in case or spaces" in fetched()[0]


def test_every_broken_clip_is_named(fetched):
    broken = [fetched.folder / f"Recede/v_Recede_g0{number}_c01.avi" for number in (2, 4)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SystemExit) as error:
        fetched()
    assert all(path.name in str(error.value) for path in broken)
    assert "Repair these files or move them out of clips" in str(error.value)


def test_a_video_in_two_classes_is_an_error(fetched):
    shutil.copy(fetched.folder / "Recede/v_Recede_g01_c01.avi", fetched.folder / "Approach/other.avi")
    with pytest.raises(SystemExit, match=r"two classes: .*Approach/other.avi and .*Recede/v_Recede_g01_c01.avi"):
        fetched()


def test_stretches_of_one_video_by_two_names_are_of_one_group(fetched):
    video = fetched.folder / "Recede/v_Recede_g01_c01.avi"
    shutil.copy(video, fetched.folder / "copy.avi")
    (fetched.folder / "clips.csv").write_text(
        "path,class,start,end\nRecede/v_Recede_g01_c01.avi,a,0,0.4\ncopy.avi,b,0.4,0.8\n"
    )
    set_params(fetched.folder.parent, dataset="folder", clips="clips/clips.csv")
    with pytest.raises(SystemExit, match=r"Recede/v_Recede_g01_c01.avi, copy.avi are one video in several groups"):
        fetch.main()


def test_only_the_clips_of_this_archive_are_used(fetched):
    """data/<dataset> keeps those of archives that were read before."""
    paths = sorted(path.relative_to(fetched.folder) for path in fetched.folder.glob("[AR]*/*_g0[12]_*.avi"))
    for name, some in {"first": paths, "second": [path for path in paths if "g01" in path.name]}.items():
        with zipfile.ZipFile(f"{name}.zip", "w") as archive:
            for path in some:
                archive.write(fetched.folder / path, path)
        values = {"fetch.classes": "all", "x3d_m.weights": None, "slowfast_r50.weights": None}
        values = {f"datasets.ucf101.{key}": value for key, value in values.items()}
        set_params(fetched.folder.parent, dataset="ucf101", clips=f"{name}.zip", **values)
        fetch.main()
        assert pd.read_csv("work/manifest.csv")["path"].tolist() == [path.as_posix() for path in some]


def test_a_log_says_how_far_it_is_and_how_long_it_takes(fetched, capsys):
    output, _ = fetched()
    assert output.startswith("decode: 0 of 15 clips\n")
    futures = [Future() for _ in range(3)]
    for wait, future in enumerate(futures, 1):
        Timer(wait / 2, future.set_result, [{}]).start()
    fetch.watch(futures, every=0.1)
    assert re.match(r"decode: 0 of 3 clips\n.*decode: 1 of 3 clips, [01] s left\n", capsys.readouterr().out, re.DOTALL)
    assert fetch.progress(120, 900, 36) == "decode: 120 of 900 clips, 4 min left"
    assert fetch.progress(899, 900, 36 * 899) == "decode: 899 of 900 clips, 36 s left"


def test_an_error_of_a_process_ends_the_wait_and_the_other_clips():
    futures = [Future(), Future()]
    futures[1].set_exception(MemoryError("a process died"))
    with pytest.raises(MemoryError, match="a process died"):
        fetch.watch(futures)
