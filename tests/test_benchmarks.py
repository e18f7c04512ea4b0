"""Every script of benchmarks/ still runs, at its smallest size. What it measures then means nothing.

Left out: study.py, which trains for minutes, and reading.py, which compares with libraries that are not installed.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from framebudget.sources import motion

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALLEST = [
    "coverage.py --seeds 3 --studies 3",
    "epoch.py CLIPS --clips 5 --crop 32 --batch 2 --rounds 1",
    "fetching.py CLIPS --rounds 1",
    "load.py --clips 300",
    "loading.py CLIPS --frames 4 --crop 32 --batches 1 --workers 0",
    "memory.py",
    "predicting.py CLIPS --frames 4 --crop 32 --rounds 1",
    "training_step.py --shape 4x32 --batch 2 --rounds 1 --repeats 1",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALLEST)
def test_it_ends_in_a_table(command: str, tmp_path: Path) -> None:
    motion.write_motion(tmp_path / "clips", 1)
    script, *arguments = command.replace("CLIPS", str(tmp_path / "clips")).split()
    run = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    header, line, first = run.stdout[run.stdout.index("| ") :].splitlines()[:3]
    assert header.count("|") == line.count("|") == first.count("|")
