"""A stage depends on the modules that it imports, and a training is identified by those that it runs."""

import ast
import shutil

import pytest
import yaml

from framebudget import study
from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCE = ROOT / "src"
HOUSE = SOURCE / "framebudget"


def imported(path):
    """The project's own modules that a file imports at its top level, or names as a job ("module:function")."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(value := getattr(node.value, "value", None), str):
            names = [value.partition(":")[0]]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            base = SOURCE.joinpath(*name.split("."))
            yield from (file for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists())


def reached(module):
    seen, queue = set(), [SOURCE.joinpath(*module.split(".")).with_suffix(".py")]
    while queue:
        path = queue.pop()
        if path not in seen:
            seen.add(path)
            queue.extend(imported(path))
    return {path for path in seen if path.read_text().strip() and path != HOUSE / "__init__.py"}


def named(stage):
    return [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")]


def files(paths):
    found = {file for path in paths for file in ([path] if path.suffix else path.rglob("*.py"))}
    return {file for file in found if file.read_text().strip()}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_a_stage_reaches(stage):
    modules = reached(next(word for word in STAGES[stage]["cmd"].split() if word.startswith("framebudget.")))
    unnamed = {str(path) for path in modules if not any(path == dep or dep in path.parents for dep in named(stage))}
    assert not unnamed
    unused = {str(dep) for dep in named(stage) if not any(path == dep or dep in path.parents for path in modules)}
    assert not unused


def test_a_training_is_identified_by_the_files_that_it_imports_and_dvc_depends_on_the_same():
    ours, modules = files(study.source_files()), ("train", "learning.fit", "learning.prediction")
    loaded = set().union(*(reached(f"framebudget.{module}") for module in modules))
    assert loaded <= ours
    found = {path for path in ours if path.parent.name == "kernels" or "\nNETWORK = " in path.read_text()}
    assert ours - loaded <= found  # kernels are imported only where there is a GPU, and networks by pkgutil
    assert ours == files(named("train_x3d")) == files(named("train_slowfast"))


CHANGES = {
    "report/plots.py": {"figures"},
    "report/statistics.py": {"evaluate", "figures", "paper"},
    "commands/predict.py": set(),
    "commands/serving.py": set(),
    "models/x3d.py": {"train_x3d", "train_slowfast", "evaluate", "figures", "paper"},
}


@pytest.mark.parametrize(("file", "stages"), CHANGES.items(), ids=CHANGES)
def test_a_change_of_a_file_makes_these_stages_stale(file, stages):
    """Directly; what follows from a stage is stale if its outputs change."""
    path = HOUSE / file
    assert path.exists()
    assert {name for name in STAGES if any(path == dep or dep in path.parents for dep in named(name))} == stages


@pytest.mark.parametrize(("file", "resumes"), [("report/plots.py", 1), ("commands/predict.py", 1), ("train.py", 0)])
def test_an_unfinished_training_resumes_after_a_change_of_what_it_does_not_run(tmp_path, monkeypatch, file, resumes):
    house = shutil.copytree(HOUSE, tmp_path / "framebudget")
    monkeypatch.setattr(study, "PACKAGE", house)
    before = [study.sha256(path) for path in study.source_files()]
    with (house / file).open("a") as changed:
        changed.write("# a change\n")
    assert ([study.sha256(path) for path in study.source_files()] == before) == resumes
