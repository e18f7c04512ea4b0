"""Which batches a CUDA graph computes; tests/models/test_gpu.py has real graphs."""

import pytest
import torch
from torch import nn

from framebudget.models import replay
from framebudget.models.replay import Replay


class Network(nn.Module):
    def __init__(self, log: list[str]):
        super().__init__()
        self.log = log

    def forward(self, clips_B: torch.Tensor) -> torch.Tensor:
        self.log.append(f"eager {len(clips_B)}")
        return clips_B


@pytest.fixture
def log(monkeypatch) -> list[str]:
    said = []

    def capture(network: nn.Module, clips_B: torch.Tensor):
        said.append(f"capture {len(clips_B)}")
        return lambda clips_B: said.append(f"replay {len(clips_B)}")

    monkeypatch.setattr(replay, "takes", lambda _: True)
    monkeypatch.setattr(replay, "captured", capture)
    monkeypatch.setattr(replay, "captured_training", capture)
    return said


def test_evaluation_captures_the_first_shape_that_comes_twice_in_a_row(log):
    compute = Replay(Network(log).eval())
    for size in (2, 8, 8, 8, 3, 8):
        compute(torch.zeros(size))
    assert log == ["eager 2", "eager 8", "capture 8", "replay 8", "replay 8", "eager 3", "replay 8"]


def test_nothing_is_captured_if_graphs_are_off(log):
    compute = Replay(Network(log), enabled=False)
    for size in (8, 8):
        compute(torch.zeros(size))
    assert log == ["eager 8", "eager 8"]


def test_training_captures_the_first_shape_and_validation_its_own(log):
    compute = Replay(Network(log))
    compute(torch.zeros(8)), compute(torch.zeros(5)), compute(torch.zeros(8))
    with torch.no_grad():
        compute.network.eval()
        compute(torch.zeros(4)), compute(torch.zeros(4))
    assert log == ["capture 8", "replay 8", "eager 5", "replay 8", "eager 4", "capture 4", "replay 4"]
