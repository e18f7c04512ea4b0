import numpy as np
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


def test_three_crops_run_along_the_longer_side():
    wide = np.arange(2 * 10 * 16 * 3).reshape(2, 10, 16, 3)
    for frames in (wide, wide.swapaxes(1, 2)):
        squares = transforms.even_crops(frames, 8, 3)
        if frames is not wide:
            squares = [square.swapaxes(1, 2) for square in squares]
        for square, left in zip(squares, (0, 4, 8), strict=True):
            np.testing.assert_array_equal(square, wide[:, 1:9, left : left + 8])
    (centre,) = transforms.even_crops(wide, 8)
    np.testing.assert_array_equal(centre, wide[:, 1:9, 4:12])


def test_a_flip_mirrors_half_of_the_clips_and_the_crop_is_one_for_all_frames():
    frames = np.tile(np.arange(16)[None, None, :, None], (3, 8, 1, 3)).astype(np.uint8)
    squares = [transforms.random_crop(frames, 8, True, np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum(int(square[0, 0, 0, 0]) > int(square[0, 0, -1, 0]) for square in squares)
    assert 70 < mirrored < 130
    assert all((square == square[:1]).all() for square in squares)
    assert {int(square.min()) for square in squares} == set(range(9))
