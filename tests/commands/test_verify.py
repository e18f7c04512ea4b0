"""The same bytes in two clones, and what is printed where they differ."""

import json
import re
import shutil

import pandas as pd
import pytest

from framebudget import params
from framebudget.commands import verify
from framebudget.console import UserError
from tests.conftest import ROOT, fresh_repository, run, set_params
from tests.forked import also

MOTION = ROOT / "reports/motion"


@pytest.fixture
def work(tmp_path):
    """What a study leaves that came out as the kept one."""
    (tmp_path / "tables").mkdir()
    shutil.copy(MOTION / "predictions.csv", tmp_path)
    shutil.copy(MOTION / "provenance.json", tmp_path / "tables")
    return tmp_path


def change(work, which: str, **columns: str) -> None:
    table = pd.read_csv(work / "predictions.csv")
    table.loc[table.eval(which), list(columns)] = list(columns.values())
    table.to_csv(work / "predictions.csv", index=False)


def test_what_differs_by_more_than_chance_from_a_kept_study(work):
    """Losing a quarter of the hits at 16 frames does, where the seeds agree; losing few at 6 frames does not."""
    table = verify.accuracies_beside(MOTION, work)
    assert (table["difference"] == 0).all()
    assert table["same"].all()
    assert table["mean_kept"]["x3d_m", 16] == pytest.approx(0.992, abs=5e-4)  # as the README has it
    assert table["std_kept"]["x3d_m", 16] < 0.04
    change(work, "model == 'x3d_m' and frames == 6 and index % 12 == 0", prediction="another")
    change(work, "model == 'x3d_m' and frames == 16 and index % 4 == 0", prediction="another")
    table = verify.accuracies_beside(MOTION, work)
    assert table.index[~table["same"]].tolist() == [("x3d_m", 16)]
    assert table["difference"]["x3d_m", 6] < -0.05


def test_only_the_same_clips_and_several_seeds_can_be_compared(work):
    change(work, "index == 0", clip="another")
    with pytest.raises(UserError, match="motion: its clips or its test clips are not those of this study"):
        verify.accuracies_beside(MOTION, work)
    shutil.copy(MOTION / "predictions.csv", work)
    (work / "tables/provenance.json").write_text(json.dumps({"clips_sha256": "0"}))
    with pytest.raises(UserError, match="are not those of this study"):
        verify.accuracies_beside(MOTION, work)
    shutil.copy(MOTION / "provenance.json", work / "tables")
    pd.read_csv(MOTION / "predictions.csv").query("seed == 0").to_csv(work / "predictions.csv", index=False)
    with pytest.raises(UserError, match="slowfast_r50 at budget 1: several seeds are needed"):
        verify.accuracies_beside(MOTION, work)
    change(work, "frames == 1", frames=0)
    with pytest.raises(UserError, match="motion: no predictions of slowfast_r50 at budget 0"):
        verify.accuracies_beside(MOTION, work)


def test_a_kept_study_is_run_with_its_parameters_on_the_clips_that_are_here(tmp_path):
    (tmp_path / "params.yaml").write_text(verify.with_parameters_of(MOTION, ROOT / "params.yaml"))
    p = params.load(tmp_path / "params.yaml")
    assert (p.seeds, p.frames, p.clips) == ([0, 1, 2, 3, 4], [1, 4, 6, 8, 16], "data")
    assert p.recipe("slowfast_r50").epochs == 15
    assert "ucf101" in p.datasets


def test_a_difference_is_printed():
    table = verify.digests_beside({"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}, {"a": "1" * 64, "b": "4" * 64})
    assert table.loc["a"].tolist() == ["1" * 16, "1" * 16, True]
    assert table.loc["b"].tolist() == ["2" * 16, "4" * 16, False]
    assert table.loc["c"].tolist() == ["3" * 16, "missing", False]
    assert len(table) == 3


def test_two_unlike_clones_write_the_same_bytes(clips, tmp_path):
    """Of a tiny study: SlowFast, in bfloat16 where the processor has it, one frame, one epoch, 32 pixels."""
    study = fresh_repository(tmp_path)
    set_params(
        study, dataset="folder", clips=str(clips), models=["slowfast_r50"], frames=[1], **{
            "train.epochs": 1, "datasets.folder.fetch.group": r"_(g\d+)_", "datasets.folder.evaluate.views": 1,
            "datasets.folder.input.short_side": 32, "datasets.folder.input.crop": 32,
        },
    )  # fmt: skip
    run("git", "commit", "-qam", "tiny", cwd=study)
    with also("2"):
        printed = run("python", "-m", "framebudget.commands.verify", cwd=study).stdout
    assert "| paper/paper.pdf " in printed
    assert "| work/slowfast_r50/1f-s0.pt " in printed
    assert re.search(r"(\d+) of \1 files are the same", printed)
    assert "False" not in printed
