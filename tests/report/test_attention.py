import pytest
import torch
from pytorchvideo.models.net import MultiPathWayWithFuse
from torch import nn

from framebudget.models import NETWORKS
from framebudget.models.layers import GlobalMean
from framebudget.models.slowfast import slow_frames
from framebudget.report.attention import attention


class Toy(nn.Module):
    """Brightness in patches of 4×4 pixels, its mean, and logits: bright, dark."""

    def __init__(self):
        super().__init__()
        to_patches = nn.AvgPool3d((1, 4, 4))
        head = nn.Sequential(GlobalMean(), nn.Flatten(), nn.Linear(1, 2))
        head[2].weight.data = torch.tensor([[1.0], [-1.0]])
        self.blocks = nn.ModuleList([to_patches, head])

    def forward(self, clips_BCTHW):
        x = clips_BCTHW
        for block in self.blocks:
            x = block(x)
        return x


class TwoPathways(Toy):
    """Channel 0 goes the slow way, a quarter of the frames; channel 1 the fast way; one logit, of their means."""

    def __init__(self):
        super().__init__()
        pathways = MultiPathWayWithFuse(
            multipathway_blocks=nn.ModuleList([nn.AvgPool3d((1, 4, 4)), nn.AvgPool3d((1, 4, 4))]),
            multipathway_fusion=nn.Identity(),
        )
        self.blocks = nn.ModuleList([pathways, nn.Identity()])

    def forward(self, clips_BCTHW):
        slow, fast = self.blocks[0]([clips_BCTHW[:, :1, slow_frames(clips_BCTHW.shape[2])], clips_BCTHW[:, 1:]])
        return (slow.mean((2, 3, 4)) + fast.mean((2, 3, 4))).float()


def a_light(*channels, T=5, frame=3):
    """A dark clip of 32×48 pixels, in which 4×4 are bright in one frame."""
    clip_1CTHW = torch.zeros(1, len(channels), T, 32, 48)
    for channel, value in enumerate(channels):
        clip_1CTHW[:, channel, frame, 8:12, 20:24] = value
    return clip_1CTHW


def peak(map_THW):
    """(frame, top, left) of the patch of 4×4 pixels that a map is highest in."""
    t, y, x = torch.unravel_index(map_THW.argmax(), map_THW.shape)
    return int(t), int(y) // 4 * 4, int(x) // 4 * 4


def test_the_map_peaks_where_and_when_the_logit_comes_from():
    clips_BCTHW = torch.cat([a_light(1.0), a_light(0.5, frame=0)])
    maps_BTHW = attention(Toy(), clips_BCTHW, torch.tensor([0, 0]))
    assert [peak(map_THW) for map_THW in maps_BTHW] == [(3, 8, 20), (0, 8, 20)]
    assert maps_BTHW.amax((1, 2, 3)).tolist() == [1, 1]  # each by its own maximum
    assert not maps_BTHW[0, [0, 1, 2, 4]].any()


class Keyhole(nn.Module):
    """Two logits: what stands in one patch of frame 2, and in another of frame 4."""

    def forward(self, x_BCTHW):
        return torch.stack([x_BCTHW[:, 0, 2, 1, 5], x_BCTHW[:, 0, 4, 6, 0]], 1)


def test_the_map_shows_what_the_network_looks_at_not_what_is_there():
    """All is equally bright; products with the mean of the gradients, as in Grad-CAM, would be equal everywhere."""
    network = Toy()
    network.blocks[1] = Keyhole()
    maps_BTHW = attention(network, torch.ones(2, 1, 5, 32, 48), torch.tensor([0, 1]))
    assert [peak(map_THW) for map_THW in maps_BTHW] == [(2, 4, 20), (4, 24, 0)]
    assert not maps_BTHW[0, [0, 1, 3, 4]].any()
    assert not maps_BTHW[0, :, 16:].any()


def test_what_speaks_against_the_class_is_cut_off():
    assert not attention(Toy(), a_light(1.0), torch.tensor([1])).any()


def test_a_slow_and_a_fast_light_weigh_what_they_add_to_the_logit_at_the_frames_they_were_in():
    """The slow pathway sees frames 0, 5, 10 and 15 of 16."""
    slow, fast = (a_light(*channels, T=16, frame=10) for channels in ((1.0, 0.0), (0.0, 1.0)))
    targets_B = torch.zeros(1, dtype=torch.long)
    network = TwoPathways()
    assert peak(attention(network, slow, targets_B)[0]) == peak(attention(network, fast, targets_B)[0]) == (10, 8, 20)
    elsewhere = a_light(0.0, 4.0, T=16, frame=2)  # as much as the slow light, which is a fourth of all slow frames
    map_THW = attention(network, slow + elsewhere, targets_B)[0]
    assert map_THW[2, 8:12, 20:24].amax() == 1
    assert map_THW[10, 8:12, 20:24].amax() == pytest.approx(0.25)  # spread over four frames


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """Untrained, but for norms that let something through; in training mode."""
    torch.manual_seed(0)
    network = NETWORKS[request.param].build(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


@pytest.mark.parametrize(("T", "crop"), [(1, 32), (6, 32), (16, 48), (2, 224)])
def test_maps_of_the_networks_lie_over_the_frames(network, T, crop):
    torch.use_deterministic_algorithms(True)
    clips_BCTHW = torch.randn(1, 3, T, crop, crop, generator=torch.Generator().manual_seed(1))
    maps_BTHW = attention(network, clips_BCTHW, torch.tensor([2]))
    assert maps_BTHW.shape == (1, T, crop, crop)
    assert not maps_BTHW.requires_grad
    assert maps_BTHW.amin() >= 0
    assert maps_BTHW.amax() == 1
    torch.testing.assert_close(attention(network, clips_BCTHW, torch.tensor([2])), maps_BTHW, rtol=0, atol=0)
    assert not torch.equal(attention(network, clips_BCTHW, torch.tensor([3])), maps_BTHW)


CHANNELS = {"x3d_m": {32: [24], 64: [48], 224: [192]}, "slowfast_r50": {32: [256, 32], 64: [512, 64], 224: [2048, 256]}}


@pytest.mark.parametrize("model", CHANNELS)
@pytest.mark.parametrize(("crop", "side"), [(32, 8), (64, 8), (224, 7)])
def test_the_stage_is_the_last_whose_map_has_seven_pixels(model, crop, side, monkeypatch):
    """As its channels tell: that of res2, res3 and res5, where stem and res2 of SlowFast have maps of one size."""
    taken, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda y, maps, *more: taken.extend(maps) or grad(y, maps, *more))
    attention(NETWORKS[model].build(5), torch.randn(1, 3, 2, crop, crop), torch.tensor([0]))
    assert [x.shape[1] for x in taken] == CHANNELS[model][crop]
    assert {x.shape[3:] for x in taken} == {(side, side)}


def test_where_no_map_has_seven_pixels_it_is_the_largest():
    network, gray = Toy(), torch.ones(1, 1, 2, 8, 8)
    network.blocks.insert(1, nn.AvgPool3d((1, 2, 2)))  # 2×2 pixels, then one
    gray[..., :4, :4] = 2
    assert peak(attention(network, gray, torch.tensor([0]))[0]) == (0, 0, 0)
    assert attention(network, gray, torch.tensor([0]))[0, 0, 7, 7] == 0.5


def test_a_map_does_not_depend_on_the_rest_of_the_batch(network):
    clips_BCTHW = torch.randn(3, 3, 6, 32, 32, generator=torch.Generator().manual_seed(2))
    targets_B = torch.tensor([0, 4, 1])
    maps_BTHW = attention(network, clips_BCTHW, targets_B)
    for b in range(3):
        alone = attention(network, clips_BCTHW[b : b + 1], targets_B[b : b + 1])
        torch.testing.assert_close(alone, maps_BTHW[b : b + 1], rtol=1e-3, atol=1e-3)


def test_the_network_stays_as_it_is(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in network.modules()]
    attention(network.train(), torch.randn(1, 3, 2, 32, 32), torch.tensor([0]))
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [len(module._forward_hooks) for module in network.modules()] == hooks


def test_frozen_weights_are_no_obstacle():
    torch.manual_seed(0)
    network = NETWORKS["x3d_m"].build(5).eval()
    clips_BCTHW, targets_B = torch.randn(1, 3, 2, 32, 32), torch.tensor([0])
    expected = attention(network, clips_BCTHW, targets_B)
    assert torch.equal(attention(network.requires_grad_(False), clips_BCTHW, targets_B), expected)
