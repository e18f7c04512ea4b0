"""The same bytes in two clones, and what is said where they differ."""

import pytest

from framebudget import verify
from tests.conftest import run


def test_a_difference_is_said():
    text = verify.compared({"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}, {"a": "1" * 64, "b": "4" * 64})
    assert f"| a | {'1' * 16} | the same |" in text
    assert f"| b | {'2' * 16} | **{'4' * 16}** |" in text
    assert f"| c | {'3' * 16} | **missing** |" in text
    assert "1 of 3 files are the same" in text


@pytest.mark.slow
def test_two_unlike_clones_write_the_same_bytes(repository):
    """Of one frame, one epoch a network."""
    small = ["frames=[1]", "datasets.motion.evaluate.views=1"]
    for model in ("x3d_m", "slowfast_r50"):
        small += [f"datasets.motion.{model}.epochs=1"]
    small += ["datasets.motion.slowfast_r50.short_side=32", "datasets.motion.slowfast_r50.crop=32"]
    changes = [argument for change in small for argument in ("-S", change)]
    said = run("python", "-m", "framebudget.verify", *changes, cwd=repository).stdout
    assert "| paper/paper.pdf |" in said
    assert "| work/x3d_m/1f-s0.pt |" in said
    assert "**" not in said
