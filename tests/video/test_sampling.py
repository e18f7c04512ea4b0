"""Every clip length from 1 to 500 and every budget from 1 to 64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framebudget.params import Input
from framebudget.video.sampling import draw, spread, views
from framebudget.video.sampling import span as span_of

lengths, budgets = st.integers(1, 500), st.integers(1, 64)
rules = st.sampled_from(["dynamic", "static", "segments", "dense"])
inputs = st.builds(
    lambda rule, stride, window: Input(
        short_side=32, crop=32, window=window, sampling=rule, stride=stride, short="repeat_last", flip=False,
        scale_jitter=0, color_jitter=0,
    ),
    rules, st.integers(1, 9), st.none() | st.floats(0.01, 30),
)  # fmt: skip


@pytest.mark.parametrize("T", range(2, 65))
def test_spread_is_the_rule_of_pytorchvideo(T):
    for span in range(T, 501):
        with np.errstate(all="raise"):
            ours = spread(span, T)
        theirs = torch.linspace(0, span - 1, T, dtype=torch.float64).add(1e-9).long()  # uniform_temporal_subsample
        np.testing.assert_array_equal(ours, theirs)


@given(rules, lengths, st.integers(1, 500))
def test_a_single_frame_is_the_middle_one(rule, frames, span):
    """PyTorchVideo's rule would take the first, in which many actions have not begun."""
    (indices,) = views(rule, frames, 1, span, 1, "repeat_last").T
    middle = max(frames - span, 0) // 2 + span // 2
    assert indices.tolist() == [min(middle, frames - 1)]
    if span <= frames:
        assert abs(int(indices[0]) - (frames - 1) / 2) <= 1


@given(inputs, lengths, budgets, st.integers(0, 9), st.sampled_from(["repeat_last", "wrap"]))
def test_indices_lie_in_the_clip(spec, frames, T, seed, short):
    span = span_of(spec, frames, 25.0, T)
    drawn = draw(spec.sampling, frames, T, span, np.random.default_rng(seed), short)
    seen = views(spec.sampling, frames, T, span, 3, short)
    assert drawn.shape == (T,)
    assert seen.shape == (3, T)
    for indices in (drawn, *seen):
        assert 0 <= indices.min() <= indices.max() < frames
        if short == "repeat_last" or span <= frames:
            assert (np.diff(indices) >= 0).all()


@given(inputs, lengths, budgets, st.integers(0, 9))
def test_no_frame_twice_where_there_are_enough(spec, frames, T, seed):
    span = span_of(spec, frames, 25.0, T)
    if span <= frames:
        drawn = draw(spec.sampling, frames, T, span, np.random.default_rng(seed), "error")
        assert (np.diff(drawn) > 0).all()
        if spec.sampling in ("dynamic", "dense"):
            assert drawn[-1] - drawn[0] == (span - 1 if T > 1 else 0)
    elif spec.sampling != "segments" or frames < T:
        with pytest.raises(ValueError, match=f"{frames} frames, but"):
            draw(spec.sampling, frames, T, span, np.random.default_rng(seed), "error")


@given(lengths, budgets, st.integers(0, 9))
def test_segments_take_one_frame_from_each_of_equal_parts(frames, T, seed):
    parts = [len(part) for part in np.array_split(np.arange(max(frames, T)), T)]
    assert max(parts) - min(parts) <= 1
    if frames >= T:
        drawn = draw("segments", frames, T, frames, np.random.default_rng(seed), "error")
        edges = np.arange(T + 1) * frames // T
        assert ((edges[:-1] <= drawn) & (drawn < edges[1:])).all()
        (middles,) = views("segments", frames, T, frames, 1, "error")
        assert (abs(middles - (edges[:-1] + edges[1:] - 1) / 2) <= 1).all()


@given(lengths, budgets, st.integers(1, 9), st.integers(0, 9))
def test_dense_takes_every_stride_th_frame(frames, T, stride, seed):
    span = (T - 1) * stride + 1
    if span <= frames:
        drawn = draw("dense", frames, T, span, np.random.default_rng(seed), "error")
        assert (np.diff(drawn) == stride).all()


@given(lengths, budgets)
def test_static_is_the_same_every_time_and_what_a_single_view_sees(frames, T):
    first, second = (draw("static", frames, T, T, np.random.default_rng(seed), "wrap") for seed in (0, 1))
    assert first.tolist() == second.tolist() == views("static", frames, T, T, 1, "wrap")[0].tolist()


def test_a_clip_shorter_than_the_budget_follows_the_policy():
    assert views("dynamic", 3, 6, 6, 1, "repeat_last").tolist() == [[0, 1, 2, 2, 2, 2]]
    assert views("dynamic", 3, 6, 6, 1, "wrap").tolist() == [[0, 1, 2, 0, 1, 2]]
    with pytest.raises(ValueError, match="3 frames, but 6 are needed"):
        views("dynamic", 3, 6, 6, 1, "error")


def test_views_run_from_the_start_to_the_end_and_one_lies_in_the_middle():
    assert views("dynamic", 48, 2, 32, 3, "error").tolist() == [[0, 31], [8, 39], [16, 47]]
    assert views("dynamic", 48, 2, 32, 2, "error").tolist() == [[0, 31], [16, 47]]
    assert views("dynamic", 48, 2, 32, 1, "error").tolist() == [[8, 39]]


def test_dynamic_spans_reach_every_place():
    generator = np.random.default_rng(0)
    assert {int(draw("dynamic", 10, 2, 8, generator, "error")[0]) for _ in range(100)} == {0, 1, 2}


def test_segments_reach_every_frame():
    generator = np.random.default_rng(0)
    drawn = [draw("segments", 20, 4, 20, generator, "error").tolist() for _ in range(200)]
    assert {frame for indices in drawn for frame in indices} == set(range(20))
