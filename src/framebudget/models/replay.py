"""Replay steps of a network as CUDA graphs."""

import contextlib
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from framebudget.models.gpu import takes

ALONE = {"capture_error_mode": "thread_local"}  # a DataLoader's thread may pin memory while this one captures
# torch 2.11 cannot say so for training steps (pytorch#188832)
GRAPHED = ALONE if "capture_error_mode" in inspect.signature(torch.cuda.make_graphed_callables).parameters else {}


class Trunk(nn.Module):
    """A network without its head, whose dropout draws its masks on the host."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.blocks, self.enter = network.blocks[:-1], getattr(network, "pathways", lambda clips_BCTHW: clips_BCTHW)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        x = self.enter(clips_BCTHW)
        for block in self.blocks:
            x = block(x)
        return x


class Replay:
    """Replay the steps of a network as CUDA graphs, for one batch shape in training and one in evaluation.

    In training, this is the first shape; in evaluation, the first that comes twice in a row.

    Launching X3D-M's kernels one by one takes the host longer than the device takes to compute them. Batches of other
    shapes, such as the last of an epoch, run without a graph, and so do all if not `enabled`. Results are the same
    bytes either way.
    """

    def __init__(self, network: nn.Module, enabled: bool = True):
        self.network, self.enabled, self.shapes, self.graphs = network, enabled, {}, {}

    def __call__(self, clips_BCTHW: Tensor) -> Tensor:
        network, training = self.network, self.network.training and torch.is_grad_enabled()
        if not (self.enabled and takes(clips_BCTHW)) or network._compiled_call_impl:
            return network(clips_BCTHW)
        known = self.shapes.get(training) == clips_BCTHW.shape
        if training in self.graphs and not known:
            return network(clips_BCTHW)
        if training not in self.graphs:
            self.shapes[training] = clips_BCTHW.shape
            if not (training or known):  # it may be the only batch of this shape to predict
                return network(clips_BCTHW)
            self.graphs[training] = (
                captured_training(network, clips_BCTHW) if training else captured(network, clips_BCTHW)
            )
        return self.graphs[training](clips_BCTHW)


def captured_training(network: nn.Module, clips_BCTHW: Tensor) -> Callable[[Tensor], Tensor]:
    """clips_BCTHW -> logits_BK with gradients. Warm-up steps do not change the running statistics."""
    trunk = Trunk(network)
    if not any(weight.requires_grad for weight in trunk.parameters()):  # frozen: there is no backward pass to capture
        return network
    before = {name: buffer.clone() for name, buffer in trunk.named_buffers()}
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # capturing uses its own stream
    with uncached_autocast(clips_BCTHW):
        graph = torch.cuda.make_graphed_callables(trunk, (clips_BCTHW.clone(),), allow_unused_input=True, **GRAPHED)
    for name, buffer in trunk.named_buffers():
        buffer.copy_(before[name])
    return lambda clips_BCTHW: network.blocks[-1](graph(clips_BCTHW))


def captured(network: nn.Module, clips_BCTHW: Tensor) -> Callable[[Tensor], Tensor]:
    """clips_BCTHW -> logits_BK without gradients."""
    given, side = clips_BCTHW.clone(), torch.cuda.Stream()
    with uncached_autocast(clips_BCTHW):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up: what is created at first use must not enter the graph
            network(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, **ALONE):
            logits_BK = network(given)

    def replay(clips_BCTHW: Tensor) -> Tensor:
        given.copy_(clips_BCTHW)
        graph.replay()
        return logits_BK.clone()

    return replay


def uncached_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """The current autocast without its cache, which would keep casts that a graph must redo."""
    device = x.device.type
    return torch.autocast(
        device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
    )
