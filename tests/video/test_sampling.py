import numpy as np
import pytest
import torch

from framebudget.video.sampling import dynamic, spread, views

LENGTHS = [1, 2, 5, 6, 16, 48, 500]
BUDGETS = [1, 2, 6, 8, 16, 64]


@pytest.mark.parametrize("T", BUDGETS)
def test_spread_is_the_rule_of_pytorchvideo(T):
    for window in range(1, 400):
        theirs = torch.linspace(0, window - 1, T, dtype=torch.float64).add(1e-9).long()  # uniform_temporal_subsample
        np.testing.assert_array_equal(spread(window, T), theirs)


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("T", BUDGETS)
@pytest.mark.parametrize("window", [1, 10, 48, 1000])
def test_indices_lie_in_the_clip_in_order_and_span_the_window(frames, T, window):
    span = min(window, frames)
    generator = np.random.default_rng(0)
    for indices in [*views(frames, T, window, 3), dynamic(frames, T, window, generator)]:
        assert indices.shape == (T,)
        assert indices.min() >= 0
        assert indices.max() < frames
        assert (np.diff(indices) >= 0).all()
        assert indices[-1] - indices[0] == (span - 1 if T > 1 else 0)


def test_a_clip_shorter_than_the_budget_repeats_its_frames():
    assert spread(3, 6).tolist() == [0, 0, 0, 1, 1, 2]
    assert views(3, 6, 3, 1).tolist() == [[0, 0, 0, 1, 1, 2]]


def test_views_run_from_the_start_to_the_end_and_one_lies_in_the_middle():
    assert views(48, 2, 32, 3).tolist() == [[0, 31], [8, 39], [16, 47]]
    assert views(48, 2, 32, 1).tolist() == [[8, 39]]


def test_dynamic_windows_reach_every_place():
    generator = np.random.default_rng(0)
    assert {int(dynamic(10, 2, 8, generator)[0]) for _ in range(100)} == {0, 1, 2}
