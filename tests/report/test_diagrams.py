import itertools
from types import SimpleNamespace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pytorchvideo.models.resnet import ResBlock

from framebudget.models import NETWORKS
from framebudget.models.slowfast import slow_frames
from framebudget.report import diagrams, plots

SIZES = [(1, 32), (6, 112), (16, 224), (32, 224), (1, 224), (64, 1024), (32, 33)]
FIGURES = {
    "x3d": lambda: diagrams.network("x3d_m", 6, 32),
    "slowfast": lambda: diagrams.network("slowfast_r50", 6, 32),
    "convolution": diagrams.convolution,
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


@pytest.mark.parametrize("model", ["x3d_m", "slowfast_r50"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_network_of_any_size_is_legible(model, size, legible):
    legible(diagrams.network(model, *size), plots.PAGE)


def test_a_convolution_is_legible(legible):
    legible(diagrams.convolution(), plots.COLUMN)


@pytest.mark.parametrize("name", FIGURES)
def test_two_saves_are_the_same_bytes(name, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        plots.save(FIGURES[name](), tmp_path / folder, name)
    for suffix in ("svg", "png"):
        one, two = ((tmp_path / folder / f"{name}.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two
