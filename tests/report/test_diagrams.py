import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.text import Text
from pytorchvideo.models.resnet import ResBlock

from framebudget.models import NETWORKS
from framebudget.models.slowfast import slow_frames
from framebudget.params import Input
from framebudget.report import diagrams, plots
from framebudget.video import dataset

INPUT = Input(
    short_side=32, crop=32, window=1.6, sampling="dynamic", stride=2, short="repeat_last",
    flip=False, scale_jitter=0, color_jitter=0,
)  # fmt: skip
SIZES = [(1, 32), (6, 112), (16, 224), (32, 224), (1, 224), (64, 1024), (32, 33)]
FIGURES = {
    "x3d": lambda: diagrams.network("x3d_m", 6, 32),
    "slowfast": lambda: diagrams.network("slowfast_r50", 6, 32),
    "convolution": diagrams.convolution,
    "sampling": lambda: diagrams.sampling_over_epochs(48, 25, 6, INPUT, seed=0),
}


def blocks(module: torch.nn.Module) -> int:
    return sum(isinstance(part, ResBlock) for part in module.modules())


def shape(stage: diagrams.Stage) -> tuple[int, ...]:
    return stage.C, stage.T, stage.H, stage.W


@torch.no_grad()
def test_stages_of_x3d_are_what_it_computes():
    network = NETWORKS["x3d_m"].build(5).eval()
    pathways, joined = diagrams.stages("x3d_m", 3, 40)
    (line,) = pathways
    x = torch.rand(1, 3, 3, 40, 40)
    assert shape(line[0]) == x.shape[1:]
    for stage, block in zip(line[1:6], network.blocks, strict=False):
        x = block(x)
        assert (shape(stage), stage.blocks, stage.lateral) == (x.shape[1:], blocks(block), 0)
    pool = network.blocks[5].pool
    x = pool.pre_act(pool.pre_norm(pool.pre_conv(x)))
    assert shape(line[6]) == x.shape[1:]
    assert shape(line[7]) == pool.pool(x).shape[1:]
    assert shape(line[8]) == pool.post_conv(pool.pool(x)).shape[1:]
    assert (len(line), joined) == (9, None)


@torch.no_grad()
def test_stages_of_slowfast_are_what_it_computes():
    network = NETWORKS["slowfast_r50"].build(5).eval()
    (slow, fast), joined = diagrams.stages("slowfast_r50", 6, 40)
    clip = torch.rand(1, 3, 6, 40, 40)
    x = [clip[:, :, slow_frames(6)], clip]
    assert [shape(slow[0]), shape(fast[0])] == [pathway.shape[1:] for pathway in x]
    for i, block in enumerate(network.blocks[:5], 1):
        x = block(x)
        assert (slow[i].C + slow[i].lateral, *shape(slow[i])[1:]) == x[0].shape[1:]
        assert (shape(fast[i]), fast[i].lateral) == (x[1].shape[1:], 0)
        assert [slow[i].blocks, fast[i].blocks] == [blocks(pathway) for pathway in block.multipathway_blocks]
        if i < 5:
            assert slow[i].lateral == len(block.multipathway_fusion.conv_fast_to_slow.weight)
    assert not slow[5].lateral
    assert [shape(slow[6]), shape(fast[6])] == [(pathway.shape[1], 1, 1, 1) for pathway in x]
    assert (joined.C + joined.lateral, *shape(joined)[1:]) == network.blocks[5](x).shape[1:]


@pytest.mark.parametrize("model", ["x3d_m", "slowfast_r50"])
def test_a_network_says_the_shape_of_every_stage(model):
    texts = [text.get_text() for text in diagrams.network(model, 16, 224).findobj(Text)]
    pathways, _ = diagrams.stages(model, 16, 224)
    for stage in itertools.chain(*pathways):
        C, T, H, W = shape(stage)
        added = f" + {stage.lateral}" if stage.lateral else ""
        assert {stage.name, f"{C}{added}", f"{T}", f"{H} × {W}", f"{stage.blocks or ''}"} <= {*texts, ""}
        if stage.lateral:
            assert f"+ {stage.lateral} × {T}\n× {H} × {W}" in texts
    assert texts.count("residual blocks") == len(pathways)


@pytest.mark.parametrize("depth", [2, 6])
def test_a_network_of_another_structure_is_drawn_too(depth, monkeypatch):
    class Small(torch.nn.Module):
        def __init__(self, classes):
            super().__init__()
            head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, classes))
            self.blocks = torch.nn.ModuleList([torch.nn.Conv3d(3, 3, 1) for _ in range(depth - 1)] + [head])

        def forward(self, clips_BCTHW):
            return torch.nn.Sequential(*self.blocks)(clips_BCTHW)

    monkeypatch.setitem(NETWORKS, "small", SimpleNamespace(name="Small", build=Small))
    (line,), _ = diagrams.stages("small", 4, 32)
    assert [shape(stage) for stage in line] == [(3, 4, 32, 32)] * depth
    FigureCanvasAgg(diagrams.network("small", 4, 32)).draw()


@pytest.fixture
def legible(monkeypatch):
    """Checks that every text of a figure lies inside, is not small, and covers neither another text nor a box."""
    drawn, draw = {}, Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.update({text: None}), draw(text, renderer)))

    def check(figure: Figure, width: float) -> None:
        FigureCanvasAgg(figure).draw()
        places = {text: text.get_window_extent() for text in drawn if text.get_visible() and text.get_text()}
        boxes = [
            patch.get_transform().transform_path(patch.get_path())
            for axes in figure.axes
            for patch in axes.patches
            if not isinstance(patch, Circle)  # which stands around its text
        ]
        assert figure.get_figwidth() == width and len(places) > 5
        for text, place in places.items():
            assert text.get_fontsize() >= 6
            assert figure.bbox.count_contains(place.corners()) == 4, text
            assert not any(box.intersects_bbox(place) for box in boxes), text
        for (one, here), (other, there) in itertools.combinations(places.items(), 2):
            assert not here.overlaps(there), (one, other)

    return check


@pytest.mark.parametrize("model", ["x3d_m", "slowfast_r50"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_network_of_any_size_is_legible(model, size, legible):
    legible(diagrams.network(model, *size), plots.PAGE)


def test_a_convolution_is_legible(legible):
    legible(diagrams.convolution(), plots.COLUMN)


@pytest.mark.parametrize(("frames", "T", "epochs"), [(48, 6, 5), (3000, 32, 8), (4, 16, 1), (1, 1, 2)])
def test_sampling_is_legible(frames, T, epochs, legible):
    legible(diagrams.sampling_over_epochs(frames, 25, T, INPUT, seed=0, epochs=epochs), plots.COLUMN)


@pytest.mark.parametrize("rule", ["dynamic", "static"])
def test_the_marks_are_the_frames_that_training_reads(rule, monkeypatch):
    read = []

    def frames_of(path: Path, indices: np.ndarray, *_: object) -> np.ndarray:
        read.append(indices.tolist())
        return np.zeros((len(indices), 32, 32, 3), np.uint8)

    monkeypatch.setattr(dataset, "read_frames", frames_of)
    rows = pd.DataFrame({"path": ["a", "b", "c"], "label": 0, "frames": 200, "fps": 20.0, "frame_index": None})
    spec = INPUT.model_copy(update={"sampling": rule})
    clips = dataset.Clips(Path(), rows, 8, spec, seed=3, views=None)
    for epoch in range(4):
        clips[epoch, 2]
    seen = set(itertools.chain(*read))

    figure = diagrams.sampling_over_epochs(200, 20.0, 8, INPUT, seed=3, epochs=4, clip=2)
    axes = figure.axes[["dynamic", "static"].index(rule)]
    marks = [[round(line[0, 0] * 20 - 0.5) for line in epoch.get_segments()] for epoch in axes.collections]
    assert marks == read
    assert f"4 epochs see {len(seen)} of 200 frames" in axes.get_title(loc="left")


def test_a_clip_that_is_too_short_is_an_error_where_the_policy_says_so():
    with pytest.raises(ValueError, match="4 frames, but 6 are needed"):
        diagrams.sampling_over_epochs(4, 25, 6, INPUT.model_copy(update={"short": "error"}), seed=0)


@pytest.mark.parametrize("name", FIGURES)
def test_two_saves_are_the_same_bytes(name, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        plots.save(FIGURES[name](), tmp_path / folder, name)
    for suffix in ("pdf", "png"):
        one, two = ((tmp_path / folder / f"{name}.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two
