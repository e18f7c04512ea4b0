import sys

import numpy as np
import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, Lambda, _functional_tensor
from torchvision.transforms.v2 import functional

from framebudget.video import sampling, transforms
from framebudget.video.reader import read_frames
from framebudget.video.transforms import View


@pytest.fixture
def theirs(monkeypatch):
    """pytorchvideo.transforms, which imports a module that torchvision renamed in 0.17 (pytorchvideo#258)."""
    monkeypatch.setitem(sys.modules, "torchvision.transforms.functional_tensor", _functional_tensor)
    from pytorchvideo import transforms

    return transforms


def test_evaluation_sees_what_pytorchvideos_transforms_make_of_the_same_frames(clip, theirs):
    T, short_side, crop = 8, 40, 32
    (indices,) = sampling.views("static", 48, T, 48, 1, "error")
    frames_BVTHWC = torch.from_numpy(read_frames(clip, indices, short_side))[None, None]
    view = transforms.even_view(*frames_BVTHWC.shape[3:5], crop)
    ours_CTHW = transforms.inputs(frames_BVTHWC, [view], crop)[0, 0]
    whole_CTHW = torch.from_numpy(read_frames(clip, range(48), short_side)).permute(3, 0, 1, 2)
    stock = Compose(
        [
            theirs.UniformTemporalSubsample(T),
            Lambda(lambda x: x / 255),
            theirs.Normalize((transforms.MEAN,) * 3, (transforms.STD,) * 3),
            theirs.ShortSideScale(short_side),
            CenterCrop(crop),
        ]
    )
    torch.testing.assert_close(ours_CTHW, stock(whole_CTHW), rtol=0, atol=1e-5)


def test_three_squares_run_along_the_longer_side():
    assert transforms.even_view(10, 16, 8, 3).corners == [(1, 0), (1, 4), (1, 8)]
    assert transforms.even_view(16, 10, 8, 3).corners == [(0, 1), (4, 1), (8, 1)]
    assert transforms.even_view(10, 16, 8).corners == [(1, 4)]


def test_each_clip_of_a_batch_is_cut_mirrored_and_normalised_by_its_own_view():
    frames_BVTHWC = torch.randint(0, 256, (2, 3, 4, 10, 16, 3), dtype=torch.uint8)
    views = [View([(0, 1), (2, 8)], flip=True), View([(1, 3), (0, 0)])]
    clips_BVCTHW = transforms.inputs(frames_BVTHWC, views, 8)
    assert clips_BVCTHW.shape == (2, 6, 3, 4, 8, 8)
    assert clips_BVCTHW.flatten(0, 1).is_contiguous(memory_format=torch.channels_last_3d)
    normal = ((frames_BVTHWC / 255 - 0.45) / 0.225).permute(0, 1, 5, 2, 3, 4)
    torch.testing.assert_close(clips_BVCTHW[0, 3:], normal[0, ..., 2:10, 8:16].flip(-1))  # the second square's windows
    torch.testing.assert_close(clips_BVCTHW[1, :3], normal[1, ..., 1:9, 3:11])


def test_colors_are_torchvisions_by_the_factors_of_the_view(theirs):
    frames_BVTHWC = torch.randint(0, 256, (2, 1, 4, 8, 8, 3), dtype=torch.uint8)
    jittered, plain = transforms.inputs(frames_BVTHWC, [View([(0, 0)], color=(1.2, 0.7, 1.5)), View([(0, 0)])], 8)
    frames_TCHW = functional.to_dtype(frames_BVTHWC[0, 0].permute(0, 3, 1, 2), torch.float32, scale=True)
    brighter = functional.adjust_brightness(frames_TCHW, 1.2)
    expected = functional.adjust_saturation(functional.adjust_contrast(brighter, 0.7), 1.5)
    torch.testing.assert_close(jittered[0], theirs.Normalize((0.45,) * 3, (0.225,) * 3)(expected.transpose(0, 1)))
    torch.testing.assert_close(plain, transforms.inputs(frames_BVTHWC[1:], [View([(0, 0)])], 8)[0])


def test_random_views_reach_every_corner_mirror_half_and_keep_to_the_jitter():
    views = [transforms.random_view(8, 16, 8, True, 0.4, np.random.default_rng(seed)) for seed in range(200)]
    assert {view.corners[0] for view in views} == {(0, left) for left in range(9)}
    assert 70 < sum(view.flip for view in views) < 130
    factors = np.array([view.color for view in views])
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4
    plain = transforms.random_view(8, 16, 8, False, 0, np.random.default_rng(0))
    assert (plain.flip, plain.color) == (False, None)
