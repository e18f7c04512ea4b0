import numpy as np
import pytest
import torch

from framebudget.video import sampling, transforms
from framebudget.video.compat import transforms as theirs
from framebudget.video.reader import read_frames


def test_evaluation_sees_what_pytorchvideos_transforms_make_of_the_same_frames(clip):
    from torchvision.transforms import CenterCrop, Compose, Lambda

    T, short_side, crop = 8, 40, 32
    (indices,) = sampling.views(48, T, 48, 1)
    (square,) = transforms.even_crops(read_frames(clip, indices, short_side), crop)
    ours_CTHW = transforms.normalise(torch.from_numpy(square.copy())[None, None])[0]
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


@pytest.mark.parametrize("shape", [(2, 10, 16, 3), (2, 16, 10, 3), (2, 10, 10, 3)])
def test_three_crops_run_along_the_longer_side(shape):
    frames = np.arange(np.prod(shape)).reshape(shape)
    first, middle, last = transforms.even_crops(frames, 8, 3)
    (centre,) = transforms.even_crops(frames, 8)
    assert first.shape == middle.shape == last.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(middle, centre)
    wide = shape[2] >= shape[1]
    across = slice((min(shape[1:3]) - 8) // 2, (min(shape[1:3]) - 8) // 2 + 8)
    for square, along in ((first, slice(0, 8)), (last, slice(max(shape[1:3]) - 8, None))):
        expected = frames[:, across, along] if wide or shape[1] == shape[2] else frames[:, along, across]
        if shape[1] != shape[2]:
            np.testing.assert_array_equal(square, expected)


def test_a_flip_mirrors_half_of_the_clips_and_the_crop_is_one_for_all_frames():
    frames = np.tile(np.arange(16)[None, None, :, None], (3, 8, 1, 3)).astype(np.uint8)
    squares = [transforms.random_crop(frames, 8, True, np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum(int(square[0, 0, 0, 0]) > int(square[0, 0, -1, 0]) for square in squares)
    assert 70 < mirrored < 130
    assert all((square == square[:1]).all() for square in squares)
    assert {int(square.min()) for square in squares} == set(range(9))
