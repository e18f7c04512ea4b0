import gc
import pickle
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from framebudget.params import Input
from framebudget.sources.folder import find_clips
from framebudget.sources.proof import build
from framebudget.video.dataset import Clips, collate, loader
from framebudget.video.reader import probe
from framebudget.video.transforms import even_view, inputs

INPUT = Input(short_side=40, crop=32, window=0.6, sampling="dynamic", stride=2, short="repeat_last", flip=True,
              scale_jitter=0.25, color_jitter=0.2)  # fmt: skip


@pytest.fixture(scope="module")
def rows(clips):
    rows = pd.DataFrame([row | probe(clips / row["path"]) for row in find_clips(clips, r"_(g\d+)_")[0]])
    indexes = [build(clips / path) for path in rows["path"]]
    return rows.assign(label=rows["class"].astype("category").cat.codes, first=0, frame_index=indexes)


def batches(clips: Path, rows: pd.DataFrame, workers: int, epoch: int = 0, seed: int = 0, views: int | None = None):
    data = loader(Clips(clips, rows, 4, INPUT, seed, views), 4, workers)
    data.sampler.set_epoch(epoch)
    return list(data)


def digest(batch: tuple) -> str:
    """Of all that a batch holds; the frames that it is padded with too."""
    frames, views, labels, positions = batch
    return sha256(frames.numpy().tobytes() + repr((views, labels.tolist(), positions.tolist())).encode()).hexdigest()


def test_a_sample_depends_on_seed_epoch_and_clip_and_not_on_the_workers(clips, rows):
    here = [digest(batch) for batch in batches(clips, rows, 0)]
    assert here == [digest(batch) for batch in batches(clips, rows, 2)]
    assert here != [digest(batch) for batch in batches(clips, rows, 0, epoch=1)]
    assert here != [digest(batch) for batch in batches(clips, rows, 0, seed=1)]


def test_each_epoch_and_each_seed_draw_a_clip_anew(clips, rows):
    """On the clips themselves: batches would differ by their order alone."""

    def drawn(epoch, seed):
        return [digest(collate([Clips(clips, rows, 4, INPUT, seed, None)[epoch, i]])) for i in range(len(rows))]

    assert drawn(0, 0) == drawn(0, 0)
    assert set(drawn(0, 0)).isdisjoint(drawn(1, 0))
    assert set(drawn(0, 0)).isdisjoint(drawn(0, 1))


def test_batches_are_uint8_with_windows_of_frames(clips, rows):
    (training, *_), (testing, *_) = batches(clips, rows, 0), batches(clips, rows, 0, views=3)
    assert training[0].shape[:3] == (4, 1, 4)
    assert testing[0].shape == (4, 3, 4, 40, 53, 3)
    assert testing[0].dtype == torch.uint8
    assert testing[3].tolist() == [0, 1, 2, 3]  # evaluation keeps the order


def test_frames_of_several_sizes_share_a_batch(clips, rows):
    items = [Clips(clips, rows, 4, INPUT, 0, None)[0, i] for i in range(8)]
    sides = {item[0].shape[2] for item in items}
    assert 40 <= min(sides) < max(sides) <= 50
    together = inputs(*collate(items)[:2], 32)
    for alone, clip in zip(items, together, strict=True):
        assert torch.equal(inputs(*collate([alone])[:2], 32)[0], clip)


def test_evaluation_jitters_nothing(clips, rows):
    frames, view, *_ = Clips(clips, rows, 4, INPUT, 0, views=3, crops=3)[0, 0]
    assert frames.shape == (3, 4, 40, 53, 3)
    assert view == even_view(40, 53, 32, 3)


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_sample_is_the_same_on_one_rank_and_on_two_and_for_any_number_of_workers(clips, rows, workers):
    def samples(epoch, rank, ranks, workers):
        data = loader(Clips(clips, rows, 4, INPUT, 0, None), 5, workers, rank, ranks)
        data.sampler.set_epoch(epoch)
        made = [(inputs(frames, views, 32), positions) for frames, views, _, positions in data]
        pairs = [pair for clips, positions in made for pair in zip(positions, clips, strict=True)]
        return {int(i): sha256(clip.numpy().tobytes()).hexdigest() for i, clip in pairs}

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


def test_a_last_batch_of_one_clip_is_left_out_on_one_rank_and_shared_on_several(clips, rows):
    dataset = Clips(clips, rows[:9], 4, INPUT, 0, None)
    assert [len(loader(dataset, 8, 0)), len(loader(dataset, 4, 0, 0, 2))] == [1, 1]
    dataset = Clips(clips, rows[:10], 4, INPUT, 0, None)
    assert [len(loader(dataset, 4, 0)), len(loader(dataset, 2, 0, 0, 2))] == [3, 3]


def held(thing: object) -> int:
    """How many Python objects it holds, in all depths."""
    seen, queue = {}, [thing]
    while queue:
        item = queue.pop()
        if id(item) not in seen and not isinstance(item, type):
            seen[id(item)] = item
            queue += gc.get_referents(item)
    return len(seen)


def test_a_thousand_clips_are_no_more_objects_than_a_few_and_reading_leaves_none_behind(clips, rows):
    """Each would come to be copied into every worker, page by page."""
    few, many = (Clips(clips, pd.concat([rows] * times), 4, INPUT, 0, None) for times in (1, 70))
    assert len(many) == 1050
    assert held(many) == held(few)
    for i in range(len(few)):
        few[0, i]
    assert held(many) == held(few)


def test_clips_of_one_video_share_its_index(clips, rows):
    """A film may be cut into thousands, and its index has hundreds of kilobytes."""
    one = Clips(clips, pd.concat([rows[:1]] * 1000), 4, INPUT, 0, None)
    assert len(one.videos) == 1
    assert len(one.clips.bytes) < 200 * len(one)
    assert one[0, 999][3] == 999


def test_an_index_is_pickled_without_what_it_caches(rows):
    index = rows["frame_index"][0]
    fresh = pickle.dumps(replace(index))
    list(index.ranges(range(30)))
    assert pickle.dumps(index) == fresh


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_open_files_do_not_grow_from_epoch_to_epoch(clips, rows):
    """Some come and go; one for every clip that was read would be 15 an epoch."""
    data = loader(Clips(clips, rows, 4, INPUT, 0, None), 4, 2)
    counts = []
    for epoch in range(6):
        data.sampler.set_epoch(epoch)
        for _ in data:
            pass
        pids = ["self", *(worker.pid for worker in data._iterator._workers)]
        counts.append([len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids])
    assert (np.min(counts[-2:], axis=0) <= np.max(counts[:2], axis=0)).all()
