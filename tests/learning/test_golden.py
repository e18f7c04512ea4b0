"""The losses of ten steps are those of golden.json, kept for each kind of device.

    $ python -m tests.learning.test_golden      writes those of this machine's device; commit them with the change
                                                that moved them, and say why

CPUs differ in the order in which they add, and ten steps let that grow: hence the tolerance.
"""

import json
from pathlib import Path

import pytest
import torch

from framebudget.learning.runtime import prepare
from framebudget.learning.task import Classification
from framebudget.models import NETWORKS
from tests.learning.test_task import RECIPE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FILE = Path(__file__).with_name("golden.json")


def losses(model: str) -> list[float]:
    prepare(0)
    network = NETWORKS[model].build(5)
    task = Classification(network, RECIPE.model_copy(update={"lr": 0.01})).to(DEVICE)
    optimizer = task.configure_optimizers()["optimizer"]
    clips_BVCTHW = torch.randn(5, 1, 3, 8, 32, 32).to(DEVICE)
    found = []
    for step in range(10):
        loss = task.step((clips_BVCTHW, torch.arange(5, device=DEVICE), [5 * step + i for i in range(5)]), "train")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("model", NETWORKS)
def test_ten_steps_lose_what_they_did(model):
    golden = json.loads(FILE.read_text())
    if DEVICE not in golden:
        pytest.skip(f"no golden losses for {DEVICE}; write them: python -m tests.learning.test_golden")
    assert losses(model) == pytest.approx(golden[DEVICE][model], rel=0.01)


def test_the_same_seed_gives_the_same_bits():
    assert losses("x3d_m") == losses("x3d_m")


if __name__ == "__main__":
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    golden[DEVICE] = {model: losses(model) for model in NETWORKS}
    FILE.write_text(json.dumps(golden, indent=1) + "\n")
