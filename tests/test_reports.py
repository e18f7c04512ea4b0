"""The scripts of reports/: what they keep, and that README.md shows what was kept."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from framebudget.console import PREDICTIONS, read_csv

TOP = Path(__file__).parents[1]
STUDIES = {path.parent.name: path.parent for path in sorted(TOP.glob("reports/*/params.yaml"))}


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


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_the_kept_tables_are_what_the_predictions_say(study: Path, tmp_path: Path) -> None:
    studies = script("reports/studies.py")
    for name, table in studies.tables_of(study).items():
        studies.write_rows(table, tmp_path / f"{name}.csv", "frames")
        own = [pd.read_csv(folder / f"{name}.csv") for folder in (tmp_path, study)]
        pd.testing.assert_frame_equal(*own, check_like=True, rtol=1e-4)


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
