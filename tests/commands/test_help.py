"""Every command says how it is called, with an example, and before anything slow is loaded."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from framebudget.console import usage
from tests.conftest import ROOT, run


def is_run(path: Path) -> bool:
    """By a person, and not only imported."""
    return "__main__" in path.read_text()


COMMANDS = ["motion", "doctor", "predict", "export"]
STAGES = ["fetch", "split", "train", "evaluate", "figures", "paper"]
SCRIPTS = [
    *(ROOT / f"src/framebudget/{name}.py" for name in STAGES),
    ROOT / "src/framebudget/commands/verify.py",
    ROOT / "src/framebudget/commands/ui.py",
    *sorted(
        path for folder in ("reports", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py") if is_run(path)
    ),
]
HEAVY = ["torch", "torchvision", "mlflow", "pandas", "numpy", "matplotlib", "pytorch_lightning", "av", "requests"]


def test_help_loads_nothing_heavy():
    program = (
        "import contextlib, sys; from framebudget.commands.cli import main; sys.argv = ['framebudget', '--help']\n"
        f"with contextlib.suppress(SystemExit): main()\nprint('loaded:', sys.modules.keys() & {HEAVY})"
    )
    printed = run(sys.executable, "-c", program, cwd=ROOT).stdout
    assert set(re.findall(r"^    (\w+) ", printed, re.MULTILINE)) == set(COMMANDS)
    assert printed.endswith("loaded: set()\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_an_example(command):
    assert f"framebudget {command}" in run("framebudget", command, "--help", cwd=ROOT).stdout.partition("example")[2]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_an_example_and_a_parser(script):
    """Not run: some load torch, or peers that are not installed."""
    text = script.read_text()
    printed = usage(ast.get_docstring(ast.parse(text), clean=False)).format_help()
    assert re.search(r"examples?:\n  \$ \w+", printed)
    assert script.stem in printed.partition("example")[2]
    assert "usage(__doc__)" in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_imports_what_there_is(script):
    """Of ours, also in functions. Peers may be missing here."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("framebudget"):
            module = importlib.import_module(node.module)
            for name in node.names:
                submodule = f"{node.module}.{name.name}"
                assert hasattr(module, name.name) or importlib.util.find_spec(submodule), submodule


def test_asking_a_stage_for_help_does_not_run_it(tmp_path):
    result = run(sys.executable, "-m", "framebudget.split", "--help", cwd=tmp_path)
    assert "Split the clips into training, validation and test, by group." in result.stdout
    assert "$ python -m framebudget.split" in result.stdout
    assert not list(tmp_path.iterdir())
    assert run(sys.executable, "-m", "framebudget.split", "twice", cwd=tmp_path, check=False).returncode == 2
