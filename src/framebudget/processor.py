"""Describe the machine: its cores, its memory, its GPUs, and the type of processor, because results depend on it."""

import contextlib
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import joblib
import psutil

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as Lightning reads them, in this order
ISA = "ONEDNN_MAX_CPU_ISA"  # limits the instructions that oneDNN uses
LIMITS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"  # of a container


class Machine(NamedTuple):
    """kind: a digest of the type of its GPUs or, without one, of its CPU. Machines of one kind give the same bytes.

    bfloat16: whether its GPUs or, without one, its CPU have instructions for it. Other CPUs are much slower in it.
    """

    kind: str
    gpus: int
    bfloat16: bool


@cache
def this_machine() -> Machine:
    import torch  # takes a second, and `fetch` needs only the cores

    capabilities = (
        torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    )  # older versions of torch lack this function
    if gpus := torch.cuda.device_count():
        facts: list = [torch.cuda.get_device_name(0)]
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        cpu = {key: value for key, value in capabilities.items() if not key.startswith("num_")}
        facts = [cpu, torch.backends.cpu.get_cpu_capability(), os.environ.get(ISA)]
        bfloat16 = ISA not in os.environ and bool(capabilities.get("avx512_bf16"))
    return Machine(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12], gpus, bfloat16)


def cores() -> int:
    """The CPU cores that this process may use, by affinity and container limits."""
    return joblib.cpu_count()


def memory() -> int:
    """The bytes of memory that this process may use, by container limits."""
    limits = [psutil.virtual_memory().total]
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def rank() -> int:
    """The number of this process among those that a launcher has started for one training."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
