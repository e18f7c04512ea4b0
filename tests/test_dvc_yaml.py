"""The `deps` of a stage name the modules it reaches, no more and no fewer."""

import ast

import pytest
import yaml

from tests.conftest import ROOT

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SOURCE = ROOT / "src"


def imported(path):
    """The project's own modules that a file imports at its top level."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
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
    return {path for path in seen if path.read_text().strip() and path != SOURCE / "framebudget/__init__.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_a_stage_reaches(stage):
    modules = reached(next(word for word in STAGES[stage]["cmd"].split() if word.startswith("framebudget.")))
    named = [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")]
    unnamed = {str(path) for path in modules if not any(path == dep or dep in path.parents for dep in named)}
    assert not unnamed
    unused = {str(dep) for dep in named if not any(path == dep or dep in path.parents for path in modules)}
    assert not unused
