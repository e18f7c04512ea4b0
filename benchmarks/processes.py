"""Helpers of the benchmarks: call in a fresh process, measure the memory of processes, and describe the machine."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

MIB = 2**20


def in_process(work: Callable, *arguments: object) -> tuple[object, list[list[int]]]:
    """Call a function in a fresh process. Returns its result, and samples of the `own` bytes of each of its children.

    Samples five times a second, or less often, so that sampling takes no more than a hundredth of the time. Raises
    EOFError if the process failed.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_send, args=(there, work, arguments))
    process.start()
    there.close()
    looks, pause = [], 0.2
    while not here.poll(pause):
        start = time.perf_counter()
        looks.append([own(child) for child in children(process.pid)])
        pause = max(0.2, 99 * (time.perf_counter() - start))
    result = here.recv()
    process.join()
    return result, looks


def _send(there: Connection, work: Callable, arguments: tuple) -> None:
    multiprocessing.set_start_method(None, force=True)  # its children then start as in a stage, and are not spawned
    there.send(work(*arguments))


def status(pid: int, what: str) -> int:
    """The bytes that /proc/PID/status gives for this key."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def own(pid: int) -> int:
    """Bytes of memory that a process shares with no other; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def children(pid: int) -> list[int]:
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def machine(*packages: str) -> str:
    """Processor, cores, load of the last minute, and versions, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
    return f"{len(os.sched_getaffinity(0))} cores of {processor}, load {os.getloadavg()[0]:.1f}; {versions}"
