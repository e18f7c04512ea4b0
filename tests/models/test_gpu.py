"""The ways of a GPU, on one where there is one; else the kernels run in Triton's interpreter, on float32 alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_block
from torch import nn

from framebudget.models import NETWORKS, gpu, layers
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay

CUDA = torch.cuda.is_available()
pytest.importorskip("triton")
from framebudget.models.kernels import depthwise as convolutions  # noqa: E402
from framebudget.models.kernels import gate as gating  # noqa: E402
from framebudget.models.kernels import norm as norms  # noqa: E402

DEVICE = "cuda" if CUDA else "cpu"
needs_gpu = pytest.mark.skipif(not CUDA, reason="no CUDA device")


@pytest.fixture(autouse=True)
def _taken(monkeypatch):
    """float32 is float32; and without a GPU, tensors of the CPU go its ways."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if not CUDA:
        monkeypatch.setattr(gpu, "takes", lambda x: x.dtype in gpu.TAKEN)
        monkeypatch.setattr(gpu, "norms", norms, raising=False)
        monkeypatch.setattr(gpu, "gating", gating, raising=False)
        for name in ("depthwise", "depthwise_gradients"):
            monkeypatch.setattr(gpu, name, getattr(convolutions, name), raising=False)


def error(found, truth):
    return ((found.double().cpu() - truth.double().cpu()).norm() / truth.double().cpu().norm()).item()


def check(module, reference, x, bound=1e-5):
    """Output and all gradients of a module by the ways of a GPU against the same module in float64 on the CPU."""
    module, x = module.to(DEVICE), x.to(DEVICE)
    ours, theirs = x.clone().requires_grad_(), x.cpu().double().requires_grad_()
    y, truth = module(ours), reference(theirs)
    weight = torch.randn(truth.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    (y * weight.to(DEVICE).float()).sum().backward()
    (truth * weight).sum().backward()
    assert error(y, truth) < bound
    assert error(ours.grad, theirs.grad) < bound
    for (name, mine), other in zip(module.named_parameters(), reference.parameters(), strict=True):
        assert error(mine.grad, other.grad) < 10 * bound, name
    for (name, mine), other in zip(module.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(mine.cpu().double(), other.double(), rtol=10 * bound, atol=10 * bound, msg=name)


class Alone(nn.Module):
    """A convolution, given and giving BCTHW."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return gpu.channels_first(gpu.convolved(self.conv, gpu.channels_last(x), self.conv.out_channels))


@pytest.mark.parametrize(
    ("shape", "channels"), [((2, 3, 6, 7), 8), ((1, 1, 1, 20), 8), ((2, 5, 2, 2), 8), ((1, 2, 5, 3), 72)]
)
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), 1), ((3, 3, 3), 2), ((3, 3, 3), 3), ((5, 1, 1), 1)])
def test_a_depthwise_convolution(shape, channels, kernel, stride):
    torch.manual_seed(0)
    conv = nn.Conv3d(channels, channels, kernel, (1, stride, stride), [k // 2 for k in kernel], 1, channels, False)
    check(Alone(conv), copy.deepcopy(conv).double(), torch.randn(shape[0], channels, *shape[1:]))


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "T"),
    [
        ((8, 12), (1, 1, 1), (1, 1, 1), 3),
        ((8, 12), (1, 1, 1), (1, 2, 2), 3),
        ((3, 8), (1, 7, 7), (1, 2, 2), 2),
        ((3, 8), (5, 7, 7), (1, 2, 2), 2),
        ((3, 8), (5, 7, 7), (1, 2, 2), 5),
        ((8, 16), (1, 3, 3), (1, 2, 2), 2),
        ((3, 24), (1, 3, 3), (1, 2, 2), 2),
        ((8, 16), (7, 1, 1), (4, 1, 1), 9),
        ((8, 16), (3, 1, 1), (1, 1, 1), 5),
    ],
)
def test_any_other_convolution_of_the_networks(channels, kernel, stride, T):
    torch.manual_seed(0)
    conv = nn.Conv3d(*channels, kernel, stride, [k // 2 for k in kernel], bias=False)
    check(Alone(conv), copy.deepcopy(conv).double(), torch.randn(2, channels[0], T, 9, 10))


def block(network, stage, number):
    """A residual block, with scales and statistics that are not those of the start."""
    torch.manual_seed(0)
    module = NETWORKS[network].build(5).blocks[stage]
    module = getattr(module, "multipathway_blocks", [module])[0].res_blocks[number]
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm3d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return module


@pytest.mark.parametrize(
    ("network", "stage", "number", "channels"),
    [("x3d_m", 1, 0, 24), ("x3d_m", 1, 1, 24), ("x3d_m", 2, 0, 24), ("slowfast_r50", 1, 0, 80)],
)
def test_a_residual_block_in_training(network, stage, number, channels):
    module = block(network, stage, number)
    check(module, copy.deepcopy(module).double(), torch.randn(2, channels, 2, 6, 6), 1e-4)


@pytest.mark.parametrize(("number", "frozen"), [(0, False), (1, False), (0, True)])
def test_a_residual_block_with_running_statistics(number, frozen):
    module = block("x3d_m", 1, number).eval()
    reference, x = copy.deepcopy(module).double(), torch.randn(2, 24, 2, 6, 6)
    if frozen:
        check(module, reference, x)
    else:
        with torch.no_grad():
            assert error(module.to(DEVICE)(x.to(DEVICE)), reference(x.double())) < 1e-5


def test_frozen_stages_go_the_way_of_a_gpu(monkeypatch):
    """No gradient passes through their norms, so that their kernels suffice."""
    module = block("x3d_m", 1, 0).eval().requires_grad_(False)
    x = torch.randn(2, 24, 2, 6, 6)
    truth = copy.deepcopy(module).double()(x.double())
    monkeypatch.setattr(gpu.ResBlock, "forward", None)  # by torch's operators
    assert error(module.to(DEVICE)(x.to(DEVICE)), truth) < 1e-5


@pytest.mark.parametrize("network", NETWORKS)
def test_every_block_of_a_network_goes_the_way_of_a_gpu(network):
    assert not [module for module in NETWORKS[network].build(5).modules() if type(module) in gpu.SWAPS]


@pytest.mark.parametrize("change", ["bias", "activation", "no norm", "momentum"])
def test_a_block_that_no_kernel_computes_goes_its_own_way(change):
    torch.manual_seed(0)
    module = create_res_block(
        dim_in=8, dim_inner=8, dim_out=16, bottleneck=create_bottleneck_block, conv_a_kernel_size=(1, 1, 1),
        conv_a_stride=(1, 1, 1), conv_a_padding=(0, 0, 0), conv_b_kernel_size=(1, 3, 3), conv_b_stride=(1, 1, 1),
        conv_b_padding=(0, 1, 1), norm=None if change == "no norm" else nn.BatchNorm3d,
        activation_bottleneck=nn.LeakyReLU if change == "activation" else nn.ReLU,
    )  # fmt: skip
    if change == "bias":
        module.branch2.conv_b = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
    if change == "momentum":  # None: the mean over all batches
        module.branch2.norm_a.momentum = None
    module, reference, x = layers.faster(module), copy.deepcopy(module).double(), torch.randn(2, 8, 2, 6, 6)
    if change != "bias":  # whose true gradient is 0: the norm subtracts it
        check(module, reference, x, 1e-4)
    with torch.no_grad():
        assert error(module.eval().to(DEVICE)(x.to(DEVICE)), reference.eval()(x.double())) < 1e-5


@needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("precision", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_network_predicts_as_on_the_cpu(network, precision, bound):
    torch.manual_seed(0)
    module, clips_BCTHW = NETWORKS[network].build(5).eval(), torch.randn(2, 3, 8, 64, 64)
    with torch.inference_mode():
        truth = copy.deepcopy(module).double()(clips_BCTHW.double())
        replay = Replay(for_evaluation(module.cuda()))
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            found = [replay(clips_BCTHW.cuda()) for _ in range(3)]  # as it comes, captured, replayed
    assert error(found[0], truth) < bound
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_replayed_steps_are_the_same_bytes(network):
    trained = []
    for replayed in (False, True, True):
        torch.manual_seed(0)
        module = NETWORKS[network].build(5).cuda()
        for dropout in module.modules():
            if isinstance(dropout, layers.ClipDropout):
                dropout.seeds = [0, 1]
        forward = Replay(module) if replayed else module
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        for _ in range(3):
            clips_BCTHW = torch.randn(2, 3, 8, 64, 64, device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(forward(clips_BCTHW).float(), torch.tensor([0, 1], device="cuda"))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        trained.append(module.state_dict())
    for name, value in trained[0].items():
        assert torch.equal(value, trained[1][name]), name
        assert torch.equal(value, trained[2][name]), name
