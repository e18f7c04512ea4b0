"""Run the trainings of a stage side by side, each in a process of its own with `trainer.threads` threads.

Neither how many run at once nor their order changes a result. If one fails, the others still finish, except when a
training has other ranks.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing import forkserver, get_all_start_methods, get_context, get_start_method, set_start_method
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from framebudget.console import Bug, UserError, end_with_parent, explanation
from framebudget.learning.display import Display, Tell
from framebudget.params import Params
from framebudget.processor import cores, this_machine
from framebudget.study import Training

# forkserver: each new process is a copy of one that has imported everything, because importing takes seconds
METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
PATIENCE = 10  # seconds that a process has to end after SIGTERM


def preload(job: str, trainings: list[Training]) -> None:
    """Start importing the job's module in the background, if the job will run in processes of its own."""
    if METHOD == "forkserver" and _places_of(job, trainings):
        get_context(METHOD).set_forkserver_preload([job.partition(":")[0]])
        forkserver.ensure_running()


class Failure(NamedTuple):
    """message: for the user; None for a bug. trace: where it happened."""

    message: str | None
    trace: str = ""


class Running(NamedTuple):
    number: int
    process: BaseProcess
    place: dict[str, str]


def side_by_side(job: str, trainings: list[Training], display: Display) -> list:
    """Call `job` for each training, and return the results in their order. job: "module:function" of (training, tell).

    tell(done, of, note) reports progress to the display. Raises UserError, or Bug. The message names
    each training that failed; the others have finished by then. With other ranks, the first error is raised as it is.
    """
    if not trainings:
        return []
    p = trainings[0].params
    if free := _places_of(job, trainings):
        outcomes = _at_once(job, trainings, display, free)
    elif _on_cluster(job, p):
        from framebudget.learning.cluster import on_cluster

        outcomes = on_cluster(job, trainings, display)
    elif with_other_ranks(job, p):  # one rank cannot continue without the others
        outcomes = ((n, function(job)(one, display.teller(one))) for n, one in enumerate(trainings))
    else:
        outcomes = _in_turn(job, trainings, display)
    found = {}
    with display:
        for number, outcome in outcomes:
            found[number] = outcome
            display.end(trainings[number], outcome.message or "a bug" if isinstance(outcome, Failure) else "")
    failed = {trainings[number]: found[number] for number in sorted(found) if isinstance(found[number], Failure)}
    if failed:
        _give_up(failed, len(trainings))
    return [found[number] for number in range(len(trainings))]


def _give_up(failed: dict[Training, Failure], number: int) -> None:
    lines = [f"{training.title}: {failure.message or failure.trace}" for training, failure in failed.items()]
    if os.environ.get("FRAMEBUDGET_DEBUG") == "1":
        lines += [failure.trace for failure in failed.values() if failure.message and failure.trace]
    if number > 1:
        lines.append(f"{len(failed)} of {number} failed; after a repair, the same command runs only what is missing")
    bug = any(failure.message is None for failure in failed.values())
    raise (Bug if bug else UserError)("\n".join(lines))


def places(p: Params) -> list[dict[str, str]]:
    """The environment of each training that may run at the same time: `side_by_side` of them, spread over the GPUs."""
    count = this_machine().gpus
    if p.side_by_side == "auto":
        number = p.per_gpu * count if count else max(1, cores() // p.trainer.threads)
    else:
        number = p.side_by_side
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return [{"CUDA_VISIBLE_DEVICES": visible[n % count]} if count else {} for n in range(number)]


def _places_of(job: str, trainings: list[Training]) -> list[dict[str, str]]:
    """The places of these trainings; none if they run one after the other in this process, or on a cluster."""
    if not trainings or _on_cluster(job, p := trainings[0].params) or with_other_ranks(job, p):
        return []
    free = places(p)[: len(trainings)]
    return free if len(free) > 1 else []


def _on_cluster(job: str, p: Params) -> bool:
    return p.engine == "ray" and job.endswith(":fit")  # `evaluate` predicts on this machine


def with_other_ranks(job: str, p: Params) -> bool:
    """Whether several processes work on one training."""
    return p.trainer.shared and job.endswith(":fit")  # `evaluate` predicts in one


def _in_turn(job: str, trainings: list[Training], display: Display) -> Iterator[tuple[int, object]]:
    for number in longest_first(trainings):
        yield number, attempt(job, trainings[number], display.teller(trainings[number]))


def longest_first(trainings: list[Training]) -> list[int]:
    """Numbers of the trainings, most frames first: with the short ones at the end, cores are idle for less time."""
    return sorted(range(len(trainings)), key=lambda number: -trainings[number].T)


def attempt(job: str, training: Training, tell: Tell) -> object:
    """What the job returns, or a Failure."""
    try:
        return function(job)(training, tell)
    except Exception as error:
        return Failure(explanation(error), traceback.format_exc())


def function(job: str) -> Callable:
    module, _, name = job.partition(":")
    return getattr(import_module(module), name)


def _at_once(
    job: str, trainings: list[Training], display: Display, free: list[dict[str, str]]
) -> Iterator[tuple[int, object]]:
    preload(job, trainings)
    context = get_context(METHOD)
    waiting = longest_first(trainings)
    running: dict[Connection, Running] = {}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or running:
            while waiting and free:
                number, place = waiting.pop(0), free.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_child, args=(job, trainings[number], place, theirs, get_start_method())
                )
                process.start()
                theirs.close()
                running[ours] = Running(number, process, place)
            for pipe in wait(list(running), timeout=1):
                one = running[pipe]
                try:
                    kind, content = pipe.recv()
                except (EOFError, OSError):  # the process ended without sending an outcome
                    one.process.join()
                    kind, content = "outcome", Failure(_cause(one.process.exitcode))
                if kind == "progress":
                    display.show(trainings[one.number], *content)
                else:
                    one.process.join()
                    free.append(one.place)
                    del running[pipe]
                    yield one.number, content
            display.tick()
    finally:
        _end(running)
        signal.signal(signal.SIGTERM, before)


def _child(job: str, training: Training, place: dict[str, str], pipe: Connection, method: str) -> None:
    end_with_parent()
    set_start_method(method, force=True)  # otherwise its loaders would start a fork server of their own
    os.environ.update(place)
    try:
        outcome = attempt(job, training, lambda *state: pipe.send(("progress", state)))
    except KeyboardInterrupt:
        sys.exit(130)
    pipe.send(("outcome", outcome))


def _cause(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"killed by {name}; if memory ran out, lower side_by_side or train.batch_size (params.yaml)"
    return f"its process ended with status {status}"


def _end(running: dict[Connection, Running]) -> None:
    """End the processes that still run. Their saved states stay in the store."""
    for one in running.values():
        one.process.terminate()
    for one in running.values():
        one.process.join(PATIENCE)
        one.process.kill()
        one.process.join()
