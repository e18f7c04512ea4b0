from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from framebudget.models import NETWORKS
from framebudget.params import Input
from framebudget.report import plots, strips
from framebudget.report.attention import attention
from framebudget.sources.motion import draw_scene, render
from framebudget.video import dataset
from framebudget.video.sampling import views

INPUT = Input(
    short_side=32, crop=32, window=1.6, sampling="dynamic", stride=2, short="repeat_last",
    flip=False, scale_jitter=0, color_jitter=0,
)  # fmt: skip
LONG = "AVeryLongClassNameWithManyManyWordsInIt"


def predictions(*rows):
    """Rows of (model, budget, clip, label, p_a); the other class is b."""
    table = pd.DataFrame(rows, columns=["model", "budget", "clip", "label", "p_a"])
    return table.assign(p_b=1 - table["p_a"], prediction=np.where(table["p_a"] > 0.5, "a", "b"), seed=0)


@pytest.fixture(scope="module")
def seen():
    """frames (16, 84, 84, 3) of three clips, and the maps of an untrained X3D-M at 32 px."""
    torch.manual_seed(0)
    network, clips = NETWORKS["x3d_m"].build(5), []
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    (indices,) = views(48, 16, 40, 1, "repeat_last")
    for number, action in enumerate(["Sway", "SpinClockwise", "Recede"], 1):
        frames = render(draw_scene(number), action)[indices][:, :, 14:98]
        clip_TCHW = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
        clip_BCTHW = torch.nn.functional.interpolate(clip_TCHW, (32, 32)).transpose(0, 1)[None]
        clips.append((frames, attention(network, clip_BCTHW, torch.tensor([0]))[0].numpy()))
    return clips


def cases(seen):
    """Figures at every budget, with long and short names."""
    maps = [picture for _, picture in seen]
    frames = [picture for picture, _ in seen]
    said = [("Sway", "SpinClockwise", 0.934), (LONG, LONG[1:], 1.0), (LONG, LONG, 0.2)]
    for T in (1, 6, 8, 16):
        run = f"SlowFast R50, {T} frames"
        yield strips.seen([(*said[k], run, frames[k][:T]) for k in range(3)])
        yield strips.seen([(*said[k], run, frames[k][:T], maps[k][:T]) for k in range(3)])
        yield strips.seen([(*said[1], run, frames[0][:T, 10:50], maps[0][:T])])


def boxes(figure):
    """Where each drawn text, and each strip or bar, lies on the page: [(what, box in inches)]."""
    figure.draw_without_rendering()
    drawn = [*figure.axes]
    for axes in figure.axes:
        off = [] if axes.axison else [*axes.xaxis.findobj(Text), *axes.yaxis.findobj(Text)]
        drawn += [text for text in axes.findobj(Text) if text.get_text() and text.get_visible() and text not in off]
    return [(one, one.get_window_extent().transformed(figure.dpi_scale_trans.inverted())) for one in drawn]


def test_nothing_overlaps_and_all_is_on_the_page(seen):
    for figure in cases(seen):
        found = boxes(figure)
        width, height = figure.get_size_inches()
        assert width <= plots.PAGE
        for one, box in found:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, one
            assert not isinstance(one, Text) or one.get_fontsize() >= 6
        for (one, box), (other, its) in combinations(found, 2):
            assert not box.padded(-0.005).overlaps(its), (one, other)


def test_pictures_have_their_shape_and_at_most_eight_are_shown(seen):
    frames = seen[0][0][:, :, :42]
    figure = strips.seen([("a", "b", 0.9, "X3D-M, 16 frames", frames)])
    figure.draw_without_rendering()
    images = figure.axes[0].images
    assert all(np.array_equal(images[k].get_array(), frames[t]) for k, t in enumerate([0, 2, 4, 6, 8, 10, 12, 15]))
    assert len(images) == 8
    box = images[0].get_window_extent()
    assert box.height / box.width == pytest.approx(2, rel=0.01)


def titles(figure):
    return [axes.get_title("left") for axes in figure.axes if axes.get_title("left")]


def test_titles_say_what_was_taken_for_what(seen):
    frames, maps = seen[0]
    clips = [
        ("SpinClockwise", "Sway", 0.934, "X3D-M, 6 frames", frames[:6]),
        ("Sway", "Sway", 0.5, "X3D-M, 16 frames", frames),
    ]
    assert titles(strips.seen(clips[:1])) == ["Spin Clockwise → Sway, 93 %   (X3D-M, 6 frames)"]
    with_maps = [(*clip, maps[: len(clip[-1])]) for clip in clips]
    assert titles(strips.seen(with_maps)) == [
        "Wrong: Spin Clockwise → Sway, 93 %   (X3D-M, 6 frames)",
        "Right: Sway, 50 %   (X3D-M, 16 frames; 8 of 16 frames shown)",
    ]


def test_the_more_attention_the_brighter():
    """In gray, over any picture; without attention a picture is gray and dimmed."""
    shades = np.arange(0, 256, 5, dtype=np.uint8)
    frames = np.tile(shades[:, None, None], (8, 1, 1, 3))
    maps = np.tile(np.linspace(0, 1, 8)[:, None, None], (1, len(shades), 1))
    figure = strips.seen([("a", "a", 0.9, "", frames, maps)])
    lit = np.stack([image.get_array()[:, 0] for image in figure.axes[0].images[8:]])
    assert (np.diff(lit @ [0.299, 0.587, 0.114], axis=0) > 0).all()
    np.testing.assert_allclose(lit[0], 0.45 * shades[:, None].repeat(3, 1) / 255, atol=0.015)  # inferno(0) is not 0


def test_maps_light_the_places_that_they_name_at_any_resolution():
    frames, maps = np.full((1, 80, 40, 3), 100, np.uint8), np.zeros((1, 8, 4), np.float32)
    maps[0, 6, 1] = 1
    figure = strips.seen([("a", "b", 0.9, "", frames, maps)])
    lit = figure.axes[0].images[1].get_array().sum(-1)
    assert lit.shape == (80, 40)
    y, x = np.unravel_index(lit.argmax(), lit.shape)
    assert (y // 10, x // 10) == (6, 1)


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_the_same_bytes_twice(seen, tmp_path, suffix):
    frames, maps = seen[0]
    for name in ("one", "two"):
        figure = strips.seen([("a", "b", 0.9, "X3D-M, 3 frames", frames[:3], maps[:3])])
        plots.save(figure, tmp_path, name)
        plots.save(strips.sampling_over_epochs(48, 25, 6, INPUT, seed=0), tmp_path, f"sampling_{name}")
    for prefix in ("", "sampling_"):
        one, two = (tmp_path / f"{prefix}{name}.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_strips_place_frames_at_their_times():
    frames = render(draw_scene(1), "Sway")
    at = {T: views(48, T, 40, 1, "repeat_last")[0] for T in (6, 16)}
    figure = strips.strips([("Sway", 25, {T: (indices, frames[indices]) for T, indices in at.items()})], "frames")
    middles = [np.mean(image.get_extent()[:2]) for image in figure.axes[0].images]
    assert middles == pytest.approx([*(at[16] - 4), *(at[6] - 4)])
    assert np.array_equal(figure.axes[0].images[-1].get_array(), frames[at[6][-1]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["16 frames", "6 frames"]


def test_mistakes_are_the_most_confident_wrong_ones_one_a_clip():
    table = predictions(
        ("x3d_m", 6, "right", "a", 0.99),
        ("x3d_m", 6, "v", "a", 0.30),
        ("x3d_m", 6, "z", "b", 0.75),
        ("x3d_m", 16, "v", "a", 0.125),
        ("slowfast_r50", 6, "y", "b", 0.75),
        ("slowfast_r50", 16, "x", "b", 0.75),
        ("slowfast_r50", 16, "v", "a", 0.125),
    )
    found = strips.mistakes(table, n=3)
    assert found["clip"].tolist() == ["v", "x", "y"]
    assert found["confidence"].tolist() == [0.875, 0.75, 0.75]
    assert found.iloc[0][["model", "budget", "prediction"]].tolist() == ["x3d_m", 16, "b"]
    assert strips.mistakes(table, n=9)["clip"].tolist() == ["v", "x", "y", "z"]
    assert strips.mistakes(table.sample(frac=1, random_state=0), n=9)["clip"].tolist() == ["v", "x", "y", "z"]
    assert strips.mistakes(table[:1]).empty


def test_right_and_wrong_are_of_the_run_and_wrong_may_be_missing():
    table = predictions(
        ("x3d_m", 6, "u", "a", 0.9),
        ("x3d_m", 6, "t", "a", 0.9),
        ("x3d_m", 6, "s", "a", 0.8),
        ("x3d_m", 6, "r", "a", 0.4),
        ("x3d_m", 6, "q", "b", 0.7),
        ("x3d_m", 16, "s", "a", 1.0),
        ("slowfast_r50", 6, "r", "a", 0.0),
    )
    found = strips.right_and_wrong(table, "x3d_m", 6)
    assert found["clip"].tolist() == ["t", "q"]
    assert found["confidence"].tolist() == [0.9, 0.7]
    assert strips.right_and_wrong(table, "x3d_m", 16)["clip"].tolist() == ["s"]
    assert strips.right_and_wrong(table, "slowfast_r50", 6)["clip"].tolist() == ["r"]


@pytest.mark.parametrize(("frames", "T"), [(48, 6), (3000, 32), (4, 16), (1, 1)])
def test_sampling_is_legible(frames, T, legible):
    legible(strips.sampling_over_epochs(frames, 25, T, INPUT, seed=0), plots.COLUMN)


@pytest.mark.parametrize("rule", ["dynamic", "static"])
def test_the_marks_are_the_frames_that_training_reads(rule, monkeypatch):
    read = []

    def frames_of(path: Path, indices: np.ndarray, *_: object) -> np.ndarray:
        read.append(indices.tolist())
        return np.zeros((len(indices), 32, 32, 3), np.uint8)

    monkeypatch.setattr(dataset, "read_frames", frames_of)
    rows = pd.DataFrame(
        {
            "path": ["a", "b", "c"],
            "label": 0,
            "first": 0,
            "frames": 200,
            "fps": 20.0,
            "frame_index": None,
            "shown": None,
        }
    )
    spec = INPUT.model_copy(update={"sampling": rule})
    clips = dataset.Clips(Path(), rows, 8, spec, seed=3, views=None)
    for epoch in range(5):
        clips[epoch, 2]
    seen = set(chain(*read))

    figure = strips.sampling_over_epochs(200, 20.0, 8, INPUT, seed=3, clip=2)
    axes = figure.axes[["dynamic", "static"].index(rule)]
    marks = [[round(line[0, 0] * 20 - 0.5) for line in epoch.get_segments()] for epoch in axes.collections]
    assert marks == read
    assert f"5 epochs see {len(seen)} of 200 frames" in axes.get_title(loc="left")
