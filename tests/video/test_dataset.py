from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
import torch

from framebudget.params import Input
from framebudget.sources.folder import find_clips
from framebudget.video.dataset import Clips, loader
from framebudget.video.reader import ClipError, learn, probe
from framebudget.video.transforms import normalise

INPUT = Input(short_side=40, crop=32, window=0.6, sampling="dynamic", stride=2, short="repeat_last", flip=True)


@pytest.fixture(scope="module")
def rows(clips):
    rows = pd.DataFrame([row | probe(clips / row["path"]) for row in find_clips(clips, r"_(g\d+)_")[0]])
    learned = [learn(clips / path) for path in rows["path"]]
    return rows.assign(label=rows["class"].astype("category").cat.codes, packets=learned)


def batches(clips: Path, rows: pd.DataFrame, workers: int, epoch: int = 0, seed: int = 0, views: int | None = None):
    data = loader(Clips(clips, rows, 4, INPUT, seed, views), 4, workers)
    data.sampler.set_epoch(epoch)
    return list(data)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_a_sample_depends_on_seed_epoch_and_clip_and_not_on_the_workers(clips, rows):
    here = batches(clips, rows, 0)
    assert same(here, batches(clips, rows, 2))
    assert not same(here, batches(clips, rows, 0, epoch=1))
    assert not same(here, batches(clips, rows, 0, seed=1))


def test_each_epoch_and_each_seed_draw_a_clip_anew(clips, rows):
    """On the clips themselves: batches would differ by their order alone."""

    def drawn(epoch, seed):
        return torch.stack([Clips(clips, rows, 4, INPUT, seed, None)[epoch, i][0] for i in range(len(rows))])

    assert torch.equal(drawn(0, 0), drawn(0, 0))
    assert not torch.equal(drawn(0, 0), drawn(1, 0))
    assert not torch.equal(drawn(0, 0), drawn(0, 1))


def test_batches_are_uint8_with_views_of_frames(clips, rows):
    (training, *_), (testing, *_) = batches(clips, rows, 0), batches(clips, rows, 0, views=3)
    assert training[0].shape == (4, 1, 4, 32, 32, 3)
    assert testing[0].shape == (4, 3, 4, 32, 32, 3)
    assert testing[0].dtype == torch.uint8
    assert testing[2].tolist() == [0, 1, 2, 3]  # evaluation keeps the order


def test_normalise_is_pytorchvideos():
    clips_BVTHWC = torch.randint(0, 256, (2, 3, 4, 8, 8, 3), dtype=torch.uint8)
    clips_NCTHW = normalise(clips_BVTHWC)
    assert clips_NCTHW.shape == (6, 3, 4, 8, 8)
    expected = (clips_BVTHWC[1, 2, 3, 4, 5] / 255 - 0.45) / 0.225
    torch.testing.assert_close(clips_NCTHW[5, :, 3, 4, 5], expected)


def test_three_crops_of_three_spans_are_nine_views(clips, rows):
    (clip, *_) = Clips(clips, rows, 4, INPUT, 0, views=3, crops=3)[0, 0]
    (middle, *_) = Clips(clips, rows, 4, INPUT, 0, views=3)[0, 0]
    assert clip.shape == (9, 4, 32, 32, 3)
    assert torch.equal(clip[3:6], middle)


def test_a_clip_that_is_too_short_is_named_where_the_policy_is_error(clips, rows):
    strict = INPUT.model_copy(update={"short": "error"})
    with pytest.raises(ClipError, match=r"v_Approach_g01_c01.avi: 30 frames, but 31 are needed.*input.short"):
        Clips(clips, rows, 31, strict, 0, None)
    assert Clips(clips, rows, 31, INPUT, 0, None)[0, 0][0].shape[1] == 31


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_sample_is_the_same_on_one_rank_and_on_two_and_for_any_number_of_workers(clips, rows, workers):
    def samples(epoch, rank, ranks, workers):
        data = loader(Clips(clips, rows, 4, INPUT, 0, None), 5, workers, rank, ranks)
        data.sampler.set_epoch(epoch)
        pairs = [pair for clips_BVTHWC, _, indices_B in data for pair in zip(indices_B, clips_BVTHWC, strict=True)]
        return {int(i): sha256(clip.numpy()).hexdigest() for i, clip in pairs}

    for epoch in (1, 0):  # in any order, as after a resume
        alone = samples(epoch, 0, 1, 0)
        assert len(alone) == len(rows) == 15
        first, second = (samples(epoch, rank, 2, workers) for rank in (0, 1))
        assert len(first) == len(second) == 7
        assert (first | second).items() <= alone.items()


def test_in_evaluation_two_ranks_see_every_clip_once(clips, rows):
    data = [loader(Clips(clips, rows, 4, INPUT, 0, 1), 4, 0, rank, 2) for rank in (0, 1)]
    seen = [int(i) for batches in data for *_, indices in batches for i in indices]
    assert sorted(seen) == list(range(15))
