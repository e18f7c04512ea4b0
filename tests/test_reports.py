"""The scripts of reports/: what they keep, and that README.md shows what was kept."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
import yaml

from framebudget.console import PREDICTIONS, UserError, read_csv
from framebudget.report.kept import points
from framebudget.report.statistics import comparisons
from framebudget.sources import motion
from framebudget.study import read_predictions

TOP = Path(__file__).parents[1]
KEPT = {path.parent.name: path.parent for path in sorted(TOP.glob("reports/**/params.yaml"))}
STUDIES = {name: folder for name, folder in KEPT.items() if folder.parent == TOP / "reports"}


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, TOP / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_kept_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(TOP / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    studies = script("reports/studies.py")
    studies.write_readme(table := studies.answers())
    studies.write_rows(table, tmp_path / "answers.csv", "frames")
    pd.testing.assert_frame_equal(pd.read_csv("answers.csv"), pd.read_csv(TOP / "reports/answers.csv"), rtol=1e-4)
    assert Path("README.md").read_text() == (TOP / "README.md").read_text()


@pytest.mark.parametrize("study", KEPT.values(), ids=KEPT)
def test_the_kept_tables_are_what_the_predictions_say(study: Path, tmp_path: Path) -> None:
    studies = script("reports/studies.py")
    for name, table in studies.tables_of(study).items():
        studies.write_rows(table, tmp_path / f"{name}.csv", "frames")
        own = [pd.read_csv(folder / f"{name}.csv") for folder in (tmp_path, study)]
        pd.testing.assert_frame_equal(*own, check_like=True, rtol=1e-4)


def test_four_frames_are_enough_on_ucf101_only_by_all_three_lists() -> None:
    """As README.md, the paper and reports/README.md say."""
    predictions = read_predictions(STUDIES["ucf101"] / "predictions.csv")
    group = predictions["group"].str[-2:].astype(int)
    of_list_2 = group.between(8, 14)  # https://www.crcv.ucf.edu/data/UCF101.php: 1 tests 1 to 7, 3 tests 15 to 21
    first = read_predictions(TOP / "reports/beside/ucf101_list2/predictions.csv")
    most = {}
    for name, rows in {"all": predictions, "1 and 3": predictions[~of_list_2], "2": first}.items():
        losses = comparisons(rows).set_index(["budget_a", "budget_b"])
        most[name] = round(100 * losses.loc[(4, 16), "at_most"], 1)
    assert most == {"all": 4.6, "1 and 3": 5.4, "2": 5.6}


@pytest.mark.parametrize(("study", "model"), [("ucf101", "x3d_m"), ("motion", "x3d_m"), ("motion", "slowfast_r50")])
def test_the_readme_of_the_reports_has_the_numbers_of_the_tables(study: str, model: str) -> None:
    tables = [pd.read_csv(STUDIES[study] / f"{name}.csv") for name in ("results", "comparisons")]
    results = tables[0].query("model == @model")
    losses = tables[1].query("of == 'frames' and model_a == @model and model_b == @model")
    rows = {
        "test accuracy, mean ± deviation over seeds": (
            f"{row.accuracy:.3f} ± {row.accuracy_std:.3f}" for row in results.itertuples()
        ),
        "95% interval, new groups and trainings": (f"{row.low:.2f}–{row.high:.2f}" for row in results.itertuples()),
        "loss against 16 frames, points": (
            *(f"{points(row.difference)} ({points(row.low)} to {points(row.high)})" for row in losses.itertuples()),
            "",
        ),
    }
    text = (TOP / "reports/README.md").read_text()
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |".replace("|  |", "| |") in text, name


def test_on_motion_reversing_swaps_the_directions_and_no_single_frame_tells_the_class() -> None:
    motion = pd.read_csv(TOP / "reports/motion/motion.csv").set_index(["frames", "model"])
    assert motion.loc[16, "swapped"].min() > 0.95
    assert motion.loc[1, "place"].eq("at").all()
    controls = pd.read_csv(TOP / "reports/motion/controls.csv").set_index(["frames", "test"])
    assert controls.loc[(16, "shuffled"), "accuracy"].max() < 0.6  # an observer who guesses the directions


def test_the_walkthrough_is_about_the_kept_study(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data", "reports"):
        (tmp_path / name).symlink_to(repository / name)
    (tmp_path / "docs/walkthrough").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    script("docs/walkthrough.py").main()
    page = "docs/how-the-answer-was-found.md"
    assert Path(page).read_text() == (TOP / page).read_text()


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """reports/studies.py, whose study ucf101 lacks its last seed; that seed is the study in params.yaml and work/."""
    studies, kept, work = script("reports/studies.py"), tmp_path / "ucf101", tmp_path / "work"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "HERE", tmp_path)
    monkeypatch.setattr(studies.Study, "load", lambda: None)
    slower = studies.read_table(STUDIES["ucf101"] / "milliseconds.csv").assign(
        milliseconds=lambda table: 4 * table["milliseconds"]
    )
    monkeypatch.setattr(studies, "milliseconds", lambda _: slower)
    shutil.copytree(STUDIES["ucf101"], kept)
    for folder in (work / "x3d_m", work / "tables"):
        folder.mkdir(parents=True)
    shutil.copy(kept / "provenance.json", work / "tables")
    content = yaml.safe_load((kept / "params.yaml").read_text())
    *others, last = content["seeds"]
    for folder, seeds in ((kept, others), (tmp_path, [last])):
        (folder / "params.yaml").write_text(yaml.safe_dump(content | {"seeds": seeds}, sort_keys=False))
    for name in ("predictions.csv", "control_predictions.csv", "x3d_m_curves.csv"):
        rows = pd.read_csv(kept / name, dtype=str)
        rows[rows["seed"] == str(last)].to_csv(work / name.replace("m_", "m/"), index=False)
        rows[rows["seed"] != str(last)].to_csv(kept / name, index=False)
    return studies


def test_added_seeds_make_the_study_of_all_seeds(apart: ModuleType) -> None:
    apart.add("ucf101")
    times = [pd.read_csv(folder / "milliseconds.csv") for folder in (Path("ucf101"), STUDIES["ucf101"])]
    assert (times[0]["milliseconds"] / times[1]["milliseconds"]).to_numpy() == pytest.approx((1 + 1 + 4) / 3, rel=1e-3)
    for file in sorted(STUDIES["ucf101"].glob("[!m]*.csv")):
        pd.testing.assert_frame_equal(pd.read_csv(f"ucf101/{file.name}"), pd.read_csv(file), rtol=1e-4, check_like=True)
    assert Path("ucf101/params.yaml").read_text() == (STUDIES["ucf101"] / "params.yaml").read_text()


@pytest.mark.parametrize(("key", "value", "complaint"), [
    ("seeds", [0, 7], "has seed 0 already"), ("frames", [1, 16], "not the same clips"),
    ("train", {"epochs": 7}, "not the same clips"), ("trainer", {"threads": 2}, "not the same clips"),
])  # fmt: skip
def test_only_new_seeds_of_the_same_study_are_added(apart: ModuleType, key: str, value: object, complaint: str) -> None:
    before = {file: file.read_bytes() for file in Path("ucf101").iterdir()}
    content = yaml.safe_load(Path("params.yaml").read_text())
    part = content["datasets"]["ucf101"] if key == "train" else content
    part[key] = part[key] | value if isinstance(value, dict) else value
    Path("params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=complaint):
        apart.add("ucf101")
    assert {file: file.read_bytes() for file in Path("ucf101").iterdir()} == before


def test_a_new_arm_replaces_itself_and_nothing_else(tmp_path: Path) -> None:
    compare, path = script("reports/splits/compare.py"), tmp_path / "clips.csv"

    def rows(arm: str, seed: int, prediction: str) -> pd.DataFrame:
        said = {"seed": seed, "clip": ["b", "a"], "group": "01", "label": "Sway", "prediction": prediction}
        return pd.DataFrame(said | {"leaked": False, "arm": arm})

    for arm, seed, prediction in [("static", 1, "old"), ("static", 0, "x"), ("group", 0, "y"), ("static", 1, "new")]:
        compare.keep(rows(arm, seed, prediction), path)
    table = read_csv(path, PREDICTIONS)
    assert list(zip(table["arm"], table["seed"], table["prediction"], strict=True)) == [
        *[("group", 0, "y")] * 2, *[("static", 0, "x")] * 2, *[("static", 1, "new")] * 2
    ]  # fmt: skip
    assert table["clip"].tolist() == ["b", "a"] * 3
    assert table["group"].eq("01").all()


def test_the_summary_is_what_the_predictions_say() -> None:
    compare = script("reports/splits/compare.py")
    tables = [compare.summary(TOP / f"reports/splits/{name}.csv") for name in ("ut_interaction", "weizmann")]
    kept = pd.read_csv(TOP / "reports/splits/summary.csv")
    pd.testing.assert_frame_equal(pd.concat(tables, ignore_index=True), kept, rtol=1e-4, check_dtype=False)


@pytest.mark.slow
def test_the_effects_of_splits_can_be_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = script("reports/splits/compare.py")
    motion.write_motion(tmp_path / "clips", 8)
    shutil.copy(TOP / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "HERE", tmp_path)
    changes = {"dataset": "folder", "clips": tmp_path / "clips", "frames": 2, "workers": 0, "train.epochs": 1}
    own = {"fetch.group": r"_(g\d+)_", "input.short_side": 32, "input.crop": 32}
    changes |= {f"datasets.folder.{key}": value for key, value in own.items()}
    given = [f"{key}={value}" for key, value in changes.items()]
    arms = ["group", "published_new"]
    monkeypatch.setattr("sys.argv", ["compare.py", "ours", *given, "--seeds", "0", "--arms", *arms])
    compare.main()
    table = pd.read_csv("ours.csv")
    tested = {arm: set(rows["clip"]) for arm, rows in table.groupby("arm")}
    assert len(tested["group"]) == 5
    assert tested["group"] == tested["published_new"]  # which chose the epoch there
    assert table.groupby("arm")["leaked"].all().to_dict() == {"group": False, "published_new": False}


def test_zero_shot_recognizes_what_the_weights_know(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero_shot = script("reports/zero_shot/zero_shot.py")
    monkeypatch.setattr(zero_shot, "__file__", str(tmp_path / "zero_shot.py"))  # it writes beside itself
    for name in ("Archery", "TaiChi"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        shutil.copy(clip, tmp_path / "clips" / name / "v.avi")
    network = zero_shot.NETWORKS["x3d_m"].build(3)
    network.blocks[5].proj.bias.data[1] = 100.0
    torch.save({"model_state": network.state_dict()}, tmp_path / "weights.pyth")
    (tmp_path / "classes.json").write_text('{"0": "archery", "1": "tai chi", "2": "yoga"}')
    arguments = ["weights.pyth", "classes.json", "clips"]
    monkeypatch.setattr("sys.argv", ["zero_shot.py", *(str(tmp_path / name) for name in arguments), "--frames", "4"])
    zero_shot.main()
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("clip")
    assert table.loc["TaiChi/v", "place"] == 1
    assert table.loc["Archery/v", "place"] > 1
