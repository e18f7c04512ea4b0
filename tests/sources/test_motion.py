import numpy as np
import pytest

from framebudget.sources.motion import ACTIONS, FRAMES, draw_scene, pose, render, write_clip
from tests.conftest import decode_all


@pytest.mark.parametrize("number", [1, 40, 120])
def test_the_embedded_clips_are_what_the_renderer_renders(repository, tmp_path, number):
    for action in ACTIONS:
        name = f"v_{action}_g{number:02d}_c01.avi"
        write_clip(tmp_path / name, render(draw_scene(number), action))
        embedded = decode_all(repository / "data/motion" / action / name)
        assert embedded.shape == (48, 84, 112, 3)
        np.testing.assert_array_equal(decode_all(tmp_path / name), embedded)


def test_all_clips_are_there(repository):
    counts = {action: len(list((repository / "data/motion" / action).glob("v_*_g*_c01.avi"))) for action in ACTIONS}
    assert counts == dict.fromkeys(ACTIONS, 120)


def test_opposite_actions_are_each_other_backwards_in_time():
    scene = draw_scene(7)
    for there, back in (("Approach", "Recede"), ("SpinClockwise", "SpinCounterclockwise")):
        for t in range(FRAMES):
            np.testing.assert_allclose(pose(scene, there, t), pose(scene, back, -t))
        assert not np.allclose(pose(scene, there, 3), pose(scene, back, 3))


@pytest.mark.parametrize("t", [0, 20.5, FRAMES - 1])
def test_a_single_frame_says_nothing(t):
    """At any time, size, angle and place have the same distribution in every action."""
    scenes = [draw_scene(number) for number in range(400)]
    quartiles = []
    for action in ACTIONS:
        poses = np.array([pose(scene, action, t) for scene in scenes])
        quartiles.append(np.quantile(poses, [0.25, 0.5, 0.75], axis=0))
    differences = np.ptp(quartiles, axis=0) / np.ptp(np.concatenate(quartiles), axis=0)
    assert differences.max() < 0.3  # of the range between quartiles; 400 scenes are not exact


def test_a_scene_depends_on_its_number_alone():
    np.testing.assert_array_equal(render(draw_scene(3), "Sway")[5], render(draw_scene(3), "Sway")[5])
    assert draw_scene(3).period != draw_scene(4).period
