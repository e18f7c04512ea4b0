import numpy as np
import pytest

from framebudget.sources.motion import ACTIONS, FRAMES, draw_scene, pose, render, write_clip
from tests.conftest import decode_all


@pytest.mark.parametrize("number", [1, 40, 64])
def test_the_embedded_clips_are_what_the_renderer_renders(repository, tmp_path, number):
    for action in ACTIONS:
        name = f"v_{action}_g{number:02d}_c01.avi"
        write_clip(tmp_path / name, render(draw_scene(number), action))
        embedded = decode_all(repository / "data/motion" / action / name)
        assert embedded.shape == (48, 84, 112, 3)
        np.testing.assert_array_equal(decode_all(tmp_path / name), embedded)


def test_all_clips_are_there(repository):
    counts = {action: len(list((repository / "data/motion" / action).glob("v_*_g??_c01.avi"))) for action in ACTIONS}
    assert counts == dict.fromkeys(ACTIONS, 64)


def test_opposite_actions_show_the_same_frames_in_reverse():
    scene = draw_scene(7)
    for there, back in (("Approach", "Recede"), ("SpinClockwise", "SpinCounterclockwise")):
        ahead = [pose(scene, there, t) for t in range(FRAMES)]
        behind = [pose(scene, back, t) for t in range(FRAMES)]
        sizes = [radius for *_, radius in ahead], [radius for *_, radius in behind]
        np.testing.assert_allclose(sizes[0], sizes[1][::-1])
        turns = np.diff([angle for _, _, angle, _ in ahead]), np.diff([angle for _, _, angle, _ in behind])
        np.testing.assert_allclose(turns[0], -turns[1])


def test_a_single_frame_says_nothing():
    """Angle, size and place in a random frame have the same distribution in every action."""
    generator = np.random.default_rng(0)
    scenes = [draw_scene(number) for number in range(400)]
    quartiles = []
    for action in ACTIONS:
        poses = np.array([pose(scene, action, generator.uniform(0, FRAMES - 1)) for scene in scenes])
        poses[:, 2] %= 2 * np.pi
        quartiles.append(np.quantile(poses, [0.25, 0.5, 0.75], axis=0))
    spread = np.ptp(quartiles, axis=0) / np.ptp(np.concatenate(quartiles), axis=0)
    assert spread.max() < 0.35  # of the range between quartiles; the sampling error of 400 scenes is about 0.2


def test_a_scene_depends_on_its_number_alone():
    np.testing.assert_array_equal(render(draw_scene(3), "Sway")[5], render(draw_scene(3), "Sway")[5])
    assert draw_scene(3).spin != draw_scene(4).spin
