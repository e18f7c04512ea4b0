"""A training step and an evaluation of PyTorchVideo's networks, as they come and as the study computes them.

    $ python benchmarks/training_step.py [--model x3d_m slowfast_r50] [--shape 8x112 16x112 16x224] [--rounds 5]

Prints a table for each model, shape (frames × pixels) and batch: seconds of the forward pass and the backward pass, of
a step with AdamW and of evaluating the same clips, and peak memory; the median of all rounds ± half their spread.
Passes are timed one by one; steps and evaluations in a row, because a GPU's queue hides the time in which the host
prepares the next one. Each measurement runs in a process of its own (on a GPU, all in one), stock and ours in turn.

    stock   pytorchvideo's network, contiguous, AdamW as torch gives it, in float32 and in the given precisions
    ours    framebudget.models as framebudget.train runs it, in each of the given precisions
            compiled    with torch.compile too (--compile), whose minutes of compiling fall into the warm-up
"""

import itertools
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from framebudget.console import usage
from framebudget.learning.runtime import prepare
from framebudget.models import NETWORKS  # before pytorchvideo: silences fvcore's warnings
from framebudget.models.layers import for_evaluation
from framebudget.models.replay import Replay
from framebudget.models.slowfast import SlowFast

from pytorchvideo.models.slowfast import create_slowfast  # isort: skip
from pytorchvideo.models.x3d import create_x3d  # isort: skip

CLASSES = 5
WARM_UP = 3  # steps: the allocator needs them


def stock_x3d(T: int, side: int) -> nn.Module:
    return create_x3d(input_clip_length=T, input_crop_size=side, model_num_class=CLASSES)


def stock_slowfast(T: int, side: int) -> nn.Module:
    """Takes the clip alone, as our network does."""
    pools = ((-(-T // 4), side // 32, side // 32), (T, side // 32, side // 32))
    network = create_slowfast(model_num_class=CLASSES, head_pool_kernel_sizes=pools)
    network.register_forward_pre_hook(lambda _, args: (SlowFast.pathways(args[0]),))
    return network


STOCK = {"x3d_m": stock_x3d, "slowfast_r50": stock_slowfast}


class Times(NamedTuple):
    forward: float
    backward: float
    step: float
    evaluation: float
    memory: float  # GiB above what the process held before the network was built


def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("--model", nargs="+", default=list(STOCK), choices=STOCK)
    parser.add_argument("--shape", nargs="+", default=["8x112", "16x112", "16x224"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--precision", nargs="+", default=["32-true"], choices=["32-true", "bf16-mixed"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="steps in each round")
    arguments = parser.parse_args()
    kinds = ["stock", *(f"stock {precision}" for precision in arguments.precision if precision != "32-true")]
    kinds += [f"ours {precision}" for precision in arguments.precision]
    if arguments.compile:
        kinds += [f"ours {precision} compiled" for precision in arguments.precision]
    for model, shape, B in itertools.product(arguments.model, arguments.shape, arguments.batch):
        T, side = map(int, shape.split("x"))
        found = {kind: [] for kind in kinds}
        for _ in tqdm(range(arguments.rounds), desc=f"{model} {shape}", unit="round", disable=None):
            for kind in kinds:
                found[kind].append(alone(measure, model, kind, B, T, side, arguments.repeats))
        print_table(f"{model}, {B} clips of {T} frames, {side} px", found)


def alone(function: Callable, *arguments: object) -> object:
    """The result of a call in a fresh process; on a GPU, whose memory is counted apart, in this one."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return function(*arguments)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(model: str, kind: str, B: int, T: int, side: int, repeats: int) -> Times:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = held(device)
    torch.manual_seed(0)
    labels_B = torch.arange(B, device=device) % CLASSES
    clips_BCTHW = torch.randn(B, 3, T, side, side, device=device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled="bf16-mixed" in kind)
    torch.use_deterministic_algorithms(False)
    if kind.startswith("stock"):
        network = compute = STOCK[model](T, side).to(device)
        optimizer = torch.optim.AdamW(network.parameters())
    else:
        prepare(0)
        network = NETWORKS[model].build(CLASSES).to(device)
        clips_BCTHW = clips_BCTHW.contiguous(memory_format=torch.channels_last_3d)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        if "compiled" in kind:
            network.compile(dynamic=False)
        compute = Replay(network)

    def loss() -> torch.Tensor:
        with autocast:
            return F.cross_entropy(compute(clips_BCTHW).float(), labels_B)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    forward, backward = [], []
    for _ in range(WARM_UP + repeats):
        start = now(device)
        found = loss()
        middle = now(device)
        found.backward()
        backward.append(now(device) - middle)
        forward.append(middle - start)
        update()
    start = now(device)
    for _ in range(repeats):
        loss().backward()
        update()
    step = (now(device) - start) / repeats
    memory = held(device) - before
    compute = network.eval() if kind.startswith("stock") else Replay(for_evaluation(network))
    with torch.inference_mode(), autocast:
        for _ in range(WARM_UP):
            compute(clips_BCTHW)
        start = now(device)
        for _ in range(repeats):
            compute(clips_BCTHW)
        evaluation = (now(device) - start) / repeats
    return Times(statistics.median(forward[WARM_UP:]), statistics.median(backward[WARM_UP:]), step, evaluation, memory)


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def held(device: torch.device) -> float:
    """Peak memory in GiB, of the device or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def print_table(title: str, found: dict[str, list[Times]]) -> None:
    print(f"\n| {title} | {' | '.join(Times._fields)} | step is | evaluation is |")
    print("|" + " --- |" * (len(Times._fields) + 3))
    stock = Times(*(statistics.median(column) for column in zip(*found["stock"], strict=True)))
    for kind, rounds in found.items():
        medians = Times(*(statistics.median(column) for column in zip(*rounds, strict=True)))
        spreads = Times(*((max(column) - min(column)) / 2 for column in zip(*rounds, strict=True)))
        cells = [f"{median:.4f} ± {spread:.4f}" for median, spread in zip(medians, spreads, strict=True)]
        cells += [f"{stock.step / medians.step:.2f} ×", f"{stock.evaluation / medians.evaluation:.2f} ×"]
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
