import copy

import pytest
import torch
import torch.nn.functional as F
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torch import nn

from framebudget.models import NETWORKS, layers
from framebudget.models.layers import (
    DepthwiseConv3d,
    NarrowConv3d,
    SpatialMaxPool,
    TemporalDepthwiseConv3d,
    for_evaluation,
)
from framebudget.models.slowfast import slow_frames
from framebudget.report.cost import cost


def stock_x3d(classes, T, crop):
    return create_x3d(input_clip_length=T, input_crop_size=crop, model_num_class=classes, depth_factor=2.2)


def with_lively_statistics(network):
    """BatchNorm statistics and scales that are not those of the start, where residual branches are zero."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight.data = 0.5 + torch.rand(module.weight.shape, generator=generator)
            module.running_mean = 0.1 * torch.randn(module.running_mean.shape, generator=generator)
    return network.eval()


@pytest.mark.parametrize(("T", "crop"), [(4, 64), (16, 224), (16, 256)])
def test_x3d_is_the_stock_network_without_its_softmax(T, crop):
    torch.manual_seed(0)
    stock, ours = with_lively_statistics(stock_x3d(5, T, crop)), NETWORKS["x3d_m"].build(5).eval()
    ours.load_state_dict(stock.state_dict())  # the same keys
    clips_BCTHW = torch.randn(1, 3, T, crop, crop)
    with torch.no_grad():
        torch.testing.assert_close(ours(clips_BCTHW).softmax(1), stock(clips_BCTHW), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("T", "crop"), [(8, 64), pytest.param(32, 256, marks=pytest.mark.long)])
def test_slowfast_is_the_stock_network(T, crop):
    torch.manual_seed(0)
    pools = (T // 4, crop // 32, crop // 32), (T, crop // 32, crop // 32)
    stock = with_lively_statistics(create_slowfast(model_num_class=5, head_pool_kernel_sizes=pools))
    ours = NETWORKS["slowfast_r50"].build(5).eval()
    ours.load_state_dict(stock.state_dict())
    clips_BCTHW = torch.randn(1, 3, T, crop, crop)
    with torch.no_grad():
        theirs = stock([clips_BCTHW[:, :, slow_frames(T)], clips_BCTHW])
        torch.testing.assert_close(ours(clips_BCTHW), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", [{"groups": 2}, {"dilation": 2}, {"padding": 1, "padding_mode": "replicate"}])
def test_a_convolution_that_no_layer_computes_is_refused(given):
    with pytest.raises(ValueError, match="implemented"):
        layers.faster(nn.Sequential(nn.Conv3d(4, 4, 3, **given)))


def test_the_memory_format_changes_no_gradient():
    torch.manual_seed(0)
    network, clips_BCTHW, found = NETWORKS["x3d_m"].build(5).double(), torch.randn(2, 3, 2, 32, 32).double(), []
    next(module for module in network.modules() if isinstance(module, layers.ClipDropout)).seeds = [0, 1]
    for memory_format in (torch.channels_last_3d, torch.contiguous_format):
        network.to(memory_format=memory_format).zero_grad()
        network(clips_BCTHW.contiguous(memory_format=memory_format)).square().sum().backward()
        found.append([weight.grad for weight in network.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("T", [1, 2, 3, 6, 9])
def test_any_number_of_frames(model, T):
    with torch.device("meta"):
        assert NETWORKS[model].build(7)(torch.empty(2, 3, T, 48, 48)).shape == (2, 7)


def test_a_quarter_of_the_frames_is_slow_rounded_up():
    assert [len(slow_frames(T)) for T in (1, 4, 5, 6, 8, 16, 32)] == [1, 1, 2, 2, 2, 4, 8]
    assert slow_frames(32).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]  # PackPathway of PyTorchVideo's tutorial


@pytest.mark.parametrize("shape", [(2, 6, 5, 8, 8), (1, 6, 1, 2, 2), (2, 6, 2, 1, 3), (2, 6, 3, 1, 1), (2, 6, 3, 7, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_depthwise_convolution_is_conv3d_forward_and_backward(shape, stride, bias, dtype):
    torch.manual_seed(0)
    stock = nn.Conv3d(6, 6, 3, (1, stride, stride), 1, groups=6, bias=bias).to(dtype)
    check_against(stock, DepthwiseConv3d, shape)


def check_against(stock, kind, shape):
    """The same convolution as a layer of this kind: output and all gradients."""
    ours = copy.deepcopy(stock)
    ours.__class__ = kind
    dtype = stock.weight.dtype
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {}
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    theirs, mine = stock(x), ours(y)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    weight = torch.randn_like(theirs)
    (theirs * weight).sum().backward()
    (mine * weight).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, **close)
    for name, weight in stock.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, weight.grad, **close)


def test_the_temporal_depthwise_convolution_is_conv3d_forward_and_backward():
    torch.manual_seed(0)
    stock = nn.Conv3d(6, 6, (5, 1, 1), 1, (2, 0, 0), groups=6, bias=False).double()
    check_against(stock, TemporalDepthwiseConv3d, (2, 6, 5, 3, 4))


def test_x3ds_gradients_are_those_of_the_stock_network():
    """In float64: through so many norms, the stock network's own gradients in float32 are wrong in the third digit."""
    torch.manual_seed(0)
    stock, ours = with_lively_statistics(stock_x3d(5, 4, 64)).double(), NETWORKS["x3d_m"].build(5).double()
    ours.load_state_dict(stock.state_dict())
    stock.blocks[-1].activation = None
    clips_BCTHW, labels_B = torch.randn(3, 3, 4, 64, 64, dtype=torch.double), torch.arange(3)
    for network in (stock, ours):
        network.train().blocks[-1].dropout = None
        F.cross_entropy(network(clips_BCTHW), labels_B).backward()
    for name, weight in stock.named_parameters():
        assert (ours.get_parameter(name).grad - weight.grad).norm() < 1e-10 * weight.grad.norm(), name


@pytest.mark.parametrize("model", NETWORKS)
def test_for_evaluation_the_norms_are_in_the_convolutions_and_the_logits_the_same(model):
    torch.manual_seed(0)
    network, clips_BCTHW = with_lively_statistics(NETWORKS[model].build(5)), torch.randn(2, 3, 8, 64, 64)
    with torch.inference_mode():
        logits_BK = network(clips_BCTHW)
        folded = for_evaluation(network)
        assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
        torch.testing.assert_close(folded(clips_BCTHW), logits_BK, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (1, 3, 3), (5, 7, 7)])
@pytest.mark.parametrize("stride", [1, (4, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("positions", [0, layers.POSITIONS])
def test_the_narrow_convolution_is_conv3d_forward_and_backward(kernel, stride, positions, monkeypatch):
    monkeypatch.setattr(layers, "POSITIONS", positions)
    torch.manual_seed(0)
    stock = nn.Conv3d(3, 4, kernel, stride, [k // 2 for k in kernel]).double()
    check_against(stock, NarrowConv3d, (2, 3, 5, 6, 7))


@pytest.mark.parametrize("kernel", [(3, 1, 1), (1, 3, 3), (5, 7, 7), (7, 1, 1)])
@pytest.mark.parametrize("stride", [1, (4, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("T, size", [(1, 6), (2, 6), (3, 2), (4, 1)])
def test_taps_that_see_padding_alone_change_nothing(kernel, stride, T, size, monkeypatch):
    monkeypatch.setattr(layers, "POSITIONS", 0)
    torch.manual_seed(0)
    stock = nn.Conv3d(3, 4, kernel, stride, [k // 2 for k in kernel]).double()
    check_against(stock, NarrowConv3d, (2, 3, T, size, size))


@pytest.mark.parametrize(
    "kernel, T, size", [((3, 1, 1), 2, 6), ((3, 3, 3), 2, 3), ((5, 7, 7), 4, 6), ((1, 3, 3), 4, 1)]
)
def test_in_bfloat16_a_clip_narrower_than_the_kernel_has_the_gradient_of_float32(kernel, T, size, monkeypatch):
    """oneDNN's has whatever lay in its memory: NaN, once that was there."""
    monkeypatch.setattr(layers, "POSITIONS", 0)
    torch.manual_seed(0)
    convolution = nn.Conv3d(16, 32, kernel, (1, 2, 2), [k // 2 for k in kernel], bias=False)
    convolution.__class__ = NarrowConv3d
    x_BCTHW = torch.randn(16, 16, T, size, size).contiguous(memory_format=torch.channels_last_3d)
    gradients = []
    for bfloat16 in False, True, True:
        del [torch.full([2**n], torch.nan) for n in range(10, 24)][:]  # to be found in memory by whoever reads it
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = convolution(x_BCTHW).float().square().mean()
        gradients += torch.autograd.grad(loss, convolution.weight)
    assert torch.equal(gradients[1], gradients[2])
    assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("model", NETWORKS)
def test_in_bfloat16_a_clip_of_few_frames_has_the_logits_of_float32(model, T, training):
    torch.manual_seed(0)
    network, clips_BCTHW = NETWORKS[model].build(5).train(training), torch.randn(8, 3, T, 32, 32)
    network.blocks[-1].dropout = None
    with torch.set_grad_enabled(training):
        logits_BK = network(clips_BCTHW)
        with torch.autocast("cpu", torch.bfloat16):
            other_BK = network(clips_BCTHW).float()
    assert (other_BK - logits_BK).norm() < 0.2 * logits_BK.norm()


@pytest.mark.parametrize("training", [True, False])
def test_with_one_thread_a_pointwise_convolution_stays_in_channels_last(training):
    """torch's own goes without oneDNN then, and every layer after it works on another memory format."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        stock = nn.Conv3d(24, 54, 1, bias=False)
        x_BCTHW = torch.randn(8, 24, 4, 8, 8).contiguous(memory_format=torch.channels_last_3d)
        with torch.set_grad_enabled(training):
            theirs = stock(x_BCTHW)
            stock.__class__ = NarrowConv3d
            mine = stock(x_BCTHW)
    finally:
        torch.set_num_threads(threads)
    assert mine.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_clips_dropout_depends_on_its_seed_alone():
    x_BF = torch.rand(3, 2000) + 1
    dropout = layers.ClipDropout(0.25)
    dropout.seeds = [7, 8, 9]
    together = dropout(x_BF)
    dropout.seeds = [9, 7]
    torch.testing.assert_close(dropout(x_BF[[2, 0]]), together[[2, 0]])
    kept = together != 0
    torch.testing.assert_close(together[kept], x_BF[kept] / 0.75)
    assert 0.7 < kept.float().mean() < 0.8
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(dropout.eval()(x_BF), x_BF)


def test_the_max_pool_is_maxpool3d():
    x = torch.randn(2, 3, 4, 9, 10)
    torch.testing.assert_close(SpatialMaxPool()(x), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))(x))


@pytest.mark.parametrize("model", NETWORKS)
def test_heads_give_logits_the_loss_falls_below_the_floor_of_a_double_softmax(model):
    """Cross-entropy of a softmax of a softmax cannot fall below 0.905 for five classes."""
    torch.manual_seed(0)
    network = NETWORKS[model].build(5)
    clips_BCTHW, labels_B = torch.randn(5, 3, 2, 32, 32), torch.arange(5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(network(clips_BCTHW), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.8


@pytest.mark.parametrize(
    ("model", "T", "crop", "parameters", "gflops"),
    [
        ("x3d_m", 16, 224, 3.79, 4.73),  # PySlowFast's model zoo
        ("x3d_m", 13, 160, 3.79, 1.96),
        ("x3d_m", 4, 160, 3.79, 0.60),
        ("slowfast_r50", 32, 256, 34.57, 65.71),  # PyTorchVideo's
    ],
)
def test_costs_agree_with_the_published_tables(model, T, crop, parameters, gflops):
    assert cost(model, 400, T, crop) == (pytest.approx(parameters, rel=0.01), pytest.approx(gflops, rel=0.01))


@pytest.mark.parametrize(("T", "crop", "gflops"), [(16, 256, 6.72), (13, 182, 2.96), (4, 182, 0.91)])
def test_pytorchvideo_adds_five_operations_for_every_element_that_an_x3d_norm_sees(T, crop, gflops):
    """Which explains its zoo's 6.72 GF, where the multiply-adds of the convolutions are 6.18."""
    elements = []
    with torch.device("meta"):
        network = NETWORKS["x3d_m"].build(400).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.register_forward_hook(lambda module, args, y: elements.append(y.numel()))
        network(torch.empty(1, 3, T, crop, crop))
    assert cost("x3d_m", 400, T, crop)[1] + 5 * sum(elements) / 1e9 == pytest.approx(gflops, rel=0.01)
