from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from framebudget.params import Input
from framebudget.report import plots, strips
from framebudget.sources.motion import draw_scene, render
from framebudget.video import dataset

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
def frames() -> np.ndarray:
    """(48, 84, 112, 3), a clip of motion."""
    return render(draw_scene(1), "Sway")


def cases(frames: np.ndarray) -> Iterator[Figure]:
    """Figures at every budget, with long and short names."""
    for T in (1, 6, 8, 16, 40):
        of_run = [strips.title(LONG, LONG[1:], 1.0, f"SlowFast R50, {T} frames"), f"Sway, {T} frames"]
        yield strips.strips([(name, frames[:T, :, 14:98]) for name in of_run])
        yield strips.strips([(of_run[0], frames[:T, 10:50])])
    axes = strips.teaser([(f"{strips.short(LONG)}, {T} frames", frames[:T]) for T in (1, 6, 40)])
    axes.set(xlabel="Frames", ylabel="Accuracy")
    yield axes.figure.figure


def boxes(figure):
    """Where each drawn text, and each strip or bar, lies on the page: [(what, box in inches)]."""
    figure.draw_without_rendering()
    drawn = [*figure.axes]
    for axes in figure.axes:
        off = [] if axes.axison else [*axes.xaxis.findobj(Text), *axes.yaxis.findobj(Text)]
        drawn += [text for text in axes.findobj(Text) if text.get_text() and text.get_visible() and text not in off]
    return [(one, one.get_window_extent().transformed(figure.dpi_scale_trans.inverted())) for one in drawn]


def test_nothing_overlaps_and_all_is_on_the_page(frames):
    for figure in cases(frames):
        found = boxes(figure)
        width, height = figure.get_size_inches()
        assert width <= plots.PAGE
        for one, box in found:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, one
            assert not isinstance(one, Text) or one.get_fontsize() >= 6
        rows = [(one, box) for one, box in found if isinstance(one, Text) or not one.axison]
        for (one, box), (other, its) in combinations(rows, 2):
            assert not box.padded(-0.005).overlaps(its), (one, other)


def test_pictures_have_their_shape_and_at_most_sixteen_are_shown(frames):
    tall = frames[:40, :, :42]
    figure = strips.strips([("Sway", tall)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_title("left") == "Sway (16 shown)"
    assert len(axes.images) == 16
    assert np.array_equal(axes.images[0].get_array(), tall[0])
    assert np.array_equal(axes.images[-1].get_array(), tall[-1])
    box = axes.images[0].get_window_extent()
    assert box.height / box.width == pytest.approx(2, rel=0.01)


def test_titles_say_what_was_taken_for_what():
    said = strips.title("SpinClockwise", "Sway", 0.934, "X3D-M, 6 frames")
    assert said == "Spin Clockwise → Sway, 93%   (X3D-M, 6 frames)"
    assert strips.title("Sway", "Sway", 0.5, "X3D-M, 16 frames") == "Sway, 50%   (X3D-M, 16 frames)"


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_bytes_twice(frames, tmp_path, suffix):
    for name in ("one", "two"):
        figure = strips.strips([("Sway, 3 frames", frames[:3])])
        plots.save(figure, tmp_path, name)
        plots.save(strips.sampling_over_epochs(48, 25, 6, INPUT, seed=0), tmp_path, f"sampling_{name}")
    for prefix in ("", "sampling_"):
        one, two = (tmp_path / f"{prefix}{name}.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_mistakes_are_the_most_confident_wrong_ones_one_a_group():
    table = predictions(
        ("x3d_m", 6, "right", "a", 0.99),
        ("x3d_m", 6, "v", "a", 0.30),
        ("x3d_m", 6, "z", "b", 0.75),
        ("x3d_m", 16, "v", "a", 0.125),
        ("slowfast_r50", 6, "y", "b", 0.75),
        ("slowfast_r50", 16, "x", "b", 0.75),
        ("slowfast_r50", 16, "v", "a", 0.125),
    )
    table["group"] = table["clip"].replace({"z": "xz", "x": "xz"})
    found = strips.mistakes(table, n=3)
    assert found["clip"].tolist() == ["v", "x", "y"]
    assert found["confidence"].tolist() == [0.875, 0.75, 0.75]
    assert found.iloc[0][["model", "budget", "prediction"]].tolist() == ["x3d_m", 16, "b"]
    assert strips.mistakes(table, n=9)["clip"].tolist() == ["v", "x", "y"]
    assert strips.mistakes(table.sample(frac=1, random_state=0), n=9)["clip"].tolist() == ["v", "x", "y"]
    assert strips.mistakes(table[:1]).empty


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
