"""Change the code that numbers depend on, one place at a time, and see whether a test notices.

    $ python -m tests.mutation                           # sampling, split, scores and statistics; long
    $ python -m tests.mutation split

Comparisons, operators, numbers, words, conditions, arguments, functions such as min and any, returned values and whole
statements are changed (mutants below). For each change the tests of that module run in a process forked from one that
has imported everything else; one that takes longer than a minute counts as noticed. What no test noticed is printed as
a diff, and either is no change of meaning, or a test is missing: docs/tests.md summarizes what is left.
"""

import argparse
import ast
import contextlib
import copy
import difflib
import importlib.machinery
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies  # noqa: F401, for these imports take longer than the tests
import pandas as pd
import pytest
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch
from tqdm import tqdm

SRC = Path(__file__).parents[1] / "src/framebudget"
MODULES = {
    "sampling": (SRC / "video/sampling.py", "tests/video/test_sampling.py"),
    "split": (SRC / "split.py", "tests/test_split.py"),
    "scores": (SRC / "report/scores.py", "tests/report/test_scores.py"),
    "statistics": (SRC / "report/statistics.py", "tests/report/test_statistics.py"),
}
SECONDS = 60
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Div,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {"min": "max", "any": "all", "minimum": "maximum", "idxmax": "idxmin", "sum": "mean", "first": "last"}
NAMES |= {other: name for name, other in NAMES.items()}
BLOCKS = ast.FunctionDef, ast.If, ast.For, ast.While, ast.With
REMOVABLE = ast.Assign, ast.AugAssign, ast.Expr, ast.Continue, ast.Raise
fork = multiprocessing.get_context("fork")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(MODULES), choices=[[], *MODULES], help="default: all")
    rows = []
    for module in parser.parse_args().modules:
        path, tests = MODULES[module]
        source = ast.unparse(ast.parse(path.read_text()))
        changed = list(dict.fromkeys(mutants(ast.parse(source))))
        left = 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            noticed = pool.map(lambda text, path=path, tests=tests: fails(path, text, tests), changed)
            for text, seen in zip(changed, tqdm(noticed, desc=module, total=len(changed), disable=None), strict=True):
                if not seen:
                    left += 1
                    lines = difflib.unified_diff(source.split("\n"), text.split("\n"), module, module, n=1, lineterm="")
                    print(*lines, sep="\n", flush=True)
        rows.append({"module": module, "changes": len(changed), "noticed": len(changed) - left, "not noticed": left})
    print(pd.DataFrame(rows).to_markdown(index=False))


def mutants(tree: ast.Module) -> Iterator[str]:
    """The source, each time with another change; docstrings and messages stay."""
    messages = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for number, node in enumerate(ast.walk(tree)):
        for change in () if node in messages else changes_of(node):
            other = copy.deepcopy(tree)
            change(next(found for place, found in enumerate(ast.walk(other)) if place == number))
            yield ast.unparse(other)


def changes_of(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    yield from changed_operators(node)
    yield from changed_values(node)
    yield from changed_flow(node)


def changed_operators(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in OTHER:
            yield lambda node: setattr(node, "ops", [OTHER[type(op)]()])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op) if type(op) in OTHER:
            yield lambda node: setattr(node, "op", OTHER[type(op)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield lambda node: setattr(node, "op", ast.UAdd()) if isinstance(node.op, ast.USub) else negate(node)


def changed_values(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    match node:
        case ast.Constant(value=bool(value)):
            yield lambda node: setattr(node, "value", not value)
        case ast.Constant(value=int(value) | float(value)):
            yield lambda node: setattr(node, "value", value + 1)
            yield lambda node: setattr(node, "value", value - 1)
        case ast.Constant(value=str(value)) if 0 < len(value) < 20:
            yield lambda node: setattr(node, "value", value + "x")
        case ast.Name(id=name) if name in NAMES:
            yield lambda node: setattr(node, "id", NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield lambda node: setattr(node, "attr", NAMES[name])


def changed_flow(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    match node:
        case ast.IfExp() | ast.If() | ast.While():
            yield lambda node: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Return(value=value) if value:
            yield lambda node: setattr(node, "value", ast.Constant(None))
        case ast.Call(keywords=keywords):
            for place in range(len(keywords)):
                yield lambda node, place=place: node.keywords.pop(place)
    for place, statement in enumerate(node.body if isinstance(node, BLOCKS) else []):
        if isinstance(statement, REMOVABLE) and not isinstance(getattr(statement, "value", None), ast.Constant):
            yield lambda node, place=place: node.body.__setitem__(place, ast.Pass())


def negate(node: ast.UnaryOp) -> None:
    node.operand = ast.UnaryOp(type(node.op)(), node.operand)


def fails(path: Path, text: str, tests: str) -> bool:
    """Whether a test of these notices that the module has this source."""
    process = fork.Process(target=run, args=(path, text, tests))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    return process.exitcode != 0


def run(path: Path, text: str, tests: str) -> None:
    """Import the module from this source, run the tests, and end with pytest's status."""
    torch.set_num_threads(1)  # threads do not survive a fork
    loader = importlib.machinery.SourceFileLoader
    usual = loader.get_code
    loader.get_code = lambda self, name: compile(text, path, "exec") if Path(self.path) == path else usual(self, name)
    with Path(os.devnull).open("w") as none, contextlib.redirect_stdout(none), contextlib.redirect_stderr(none):
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", tests])
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
