"""What a network is shown in the controls."""

import numpy as np
import pytest
import torch

from framebudget.learning.prediction import ORDERS, ordered

B, V, T = 3, 2, 16


@pytest.fixture
def frames_BVTHWC():
    """Every frame holds its clip, its view and its number."""
    frames = torch.empty(B, V, T, 1, 1, 3, dtype=torch.uint8)
    for b, v, t in np.ndindex(B, V, T):
        frames[b, v, t, 0, 0] = torch.tensor([b, v, t])
    return frames


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_changes_nothing_but_the_order(frames_BVTHWC, order):
    found = ordered(frames_BVTHWC, order, 0, torch.tensor([4, 5, 6]))
    assert torch.equal(found[..., :2], frames_BVTHWC[..., :2])
    times_BVT = found[..., 0, 0, 2]
    expected = {"recorded": range(T), "reversed": range(T)[::-1], "still": [T // 2] * T}
    if order in expected:
        assert torch.equal(times_BVT, torch.tensor(list(expected[order])).expand(B, V, T))
    else:
        assert times_BVT.sort().values.equal(torch.arange(T).expand(B, V, T))
        assert len({tuple(times.tolist()) for times in times_BVT[:, 0]}) == B  # each clip has its own


def test_shuffling_depends_on_the_seed_and_the_clip_alone(frames_BVTHWC):
    def times(seed, clips):
        batch = frames_BVTHWC[: len(clips)]
        return [tuple(one.tolist()) for one in ordered(batch, "shuffled", seed, torch.tensor(clips))[:, 0, :, 0, 0, 2]]

    assert times(0, [4, 5, 6])[1:] == times(0, [5, 6])
    assert times(0, [4]) != times(1, [4])


def test_two_frames_are_always_swapped(frames_BVTHWC):
    for clip in range(20):
        found = ordered(frames_BVTHWC[:1, :, :2], "shuffled", 0, torch.tensor([clip]))
        assert found[0, 0, :, 0, 0, 2].tolist() == [1, 0]


def test_one_frame_has_one_order(frames_BVTHWC):
    for order in ORDERS:
        assert torch.equal(ordered(frames_BVTHWC[:, :, :1], order, 0, torch.arange(B)), frames_BVTHWC[:, :, :1])
