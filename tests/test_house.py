"""No module imports from a room above its own, and no file is too long."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

HOUSE = ROOT / "src/framebudget"
FLOORS = [  # bottom up; a floor's rooms do not know each other, but for SIDEWAYS
    {"console", "processor"},
    {"repository"},
    {"params"},
    {"sources", "models", "video"},
    {"study"},
    {"learning", "report"},
    {"fetch", "split", "train", "evaluate", "figures", "paper"},
    {"commands"},
]
SIDEWAYS = {("sources", "video"), ("report", "learning")}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = [path for path in sorted(HOUSE.rglob("*.py")) if path != HOUSE / "__init__.py"]


def room(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(source):
    """The rooms that a module imports from, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a module is"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("framebudget.")}
    return rooms


def forbidden(own, source):
    """The rooms that a module in the room `own` may not import from."""
    return {
        other
        for other in imported(source) - {own}
        if FLOOR[other] > FLOOR[own] or (FLOOR[other] == FLOOR[own] and (own, other) not in SIDEWAYS)
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_a_module_imports_from_below_only(path):
    assert room(path) in FLOOR, "a new room: give it a floor"
    assert not forbidden(room(path), path.read_text())


@pytest.mark.parametrize(
    ("own", "source", "found"),
    [
        ("models", "from framebudget import params", set()),
        ("sources", "from framebudget.video import reader", set()),
        ("video", "import framebudget.sources.folder", {"sources"}),
        ("models", "def f():\n    from framebudget.commands import serving", {"commands"}),
        ("learning", "from framebudget import report, study", {"report"}),
    ],
)
def test_a_forbidden_import_is_found_wherever_it_is(own, source, found):
    assert forbidden(own, source) == found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_no_file_is_longer_than_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_every_package_that_is_imported_is_a_dependency():
    """Also in functions. Otherwise it is there only for as long as another package needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["ray"]
    named = {canonicalize_name(Requirement(line).name) for line in lines} | {"triton"}  # which torch for GPUs brings
    known = packages_distributions() | {"ray": ["ray"], "triton": ["triton"]}  # may not be installed
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"framebudget"}:
                assert named & {canonicalize_name(name) for name in known[top]}, f"{path}: {top}"
