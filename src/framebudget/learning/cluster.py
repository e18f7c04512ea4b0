"""Train on a Ray cluster (docs/cluster.md): RAY_ADDRESS names it.

Without RAY_ADDRESS, Ray uses a cluster that runs on this machine, or starts one. Every training is a Ray task with
`trainer.threads` CPUs and, if the cluster has GPUs, a share of one. If its node dies, Ray runs the task again on
another. Code goes to the nodes with the task, and weights and curves come back through Ray's object store. Clips must
be at the same path on every node. A training resumes if the store of its node has its state.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from framebudget.console import UserError, explanation, new_file
from framebudget.learning import store
from framebudget.learning.display import Display
from framebudget.learning.side_by_side import Failure, attempt, longest_first
from framebudget.learning.tracking import log_finished
from framebudget.params import Params
from framebudget.processor import Machine, this_machine
from framebudget.study import PACKAGE, Training
from framebudget.video.dataset import check

RETRIES = 3  # of a training whose node or process died


def connect():
    """Ray, connected to its cluster. Raises UserError if Ray is not installed or the cluster does not answer."""
    try:
        import ray
    except ImportError:
        remedy = "pip install --require-hashes -r requirements-ray.lock"
        raise UserError(f"engine: ray (params.yaml), but Ray is not installed; install it: {remedy}") from None
    if not ray.is_initialized():
        knock(os.environ.get("RAY_ADDRESS", ""))
        ray.init(runtime_env={"py_modules": [str(PACKAGE)]}, log_to_driver=False, logging_level="ERROR")
    return ray


def knock(address: str) -> None:
    """Raise UserError if nothing listens at host:port or ray://host:port. Ray itself would end this process."""
    where = urlsplit(address if "://" in address else f"//{address}")
    try:
        if where.hostname and where.port:
            socket.create_connection((where.hostname, where.port), timeout=3).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS: no Ray cluster answers at {address} ({error}); start it: ray start --head"
        ) from None


def machine(p: Params) -> Machine:
    """The type of machine on which the cluster runs a training. Waits for a node with enough CPUs, and says so."""
    ray = connect()
    largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    if largest < p.trainer.threads:
        wanted = f"{p.trainer.threads} CPUs (trainer.threads in params.yaml)"
        print(f"no node of the cluster has {wanted}; the largest has {largest:g}; waiting for one", flush=True)
    return ray.get(ray.remote(lambda: this_machine()).options(**_share(ray, p)).remote())


def _share(ray, p: Params) -> dict:
    """The resources of one training."""
    gpu = {"num_gpus": 1 / p.per_gpu} if ray.cluster_resources().get("GPU") else {}
    return {"num_cpus": p.trainer.threads, "max_retries": RETRIES} | gpu


def on_cluster(job: str, trainings: list[Training], display: Display) -> Iterator[tuple[int, object]]:
    """Yield (number of a training, None or a Failure) as each ends. The local store then has its weights and curve."""
    ray = connect()
    from ray.util.queue import Empty, Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # others may die
    told = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    share = _share(ray, trainings[0].params)
    running = {}
    for number in longest_first(trainings):
        training = trainings[number]
        _ = training.identity, training.weights_sha256  # computed here, and sent with it
        running[ray.remote(_train).options(**share).remote(job, training, str(Path.cwd()), number, told)] = number
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=1)
            while True:
                try:
                    number, state = told.get_nowait()
                except Empty:
                    break
                display.show(trainings[number], *state)
            display.tick()
            for task in done:
                number = running.pop(task)
                try:
                    outcome = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    outcome = Failure(explanation(error.cause), str(error))
                except ray.exceptions.RayError as error:
                    outcome = Failure(f"its node or process died {RETRIES + 1} times; see `ray status` ({error})")
                if not isinstance(outcome, Failure):
                    outcome = _receive(trainings[number], outcome)
                yield number, outcome
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _train(job: str, training: Training, folder: str, number: int, told) -> dict[str, bytes] | Failure:
    """Runs on a node: train, and return the files of the finished training, or a Failure."""
    node = socket.gethostname()
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if this_machine().kind != training.study.machine.kind:
        return Failure(f"node {node} has another type of processor, which gives another result; use nodes of one type")
    try:
        check(training.params.folder, training.clips())
    except UserError as error:
        return Failure(f"node {node}, where clips must be at the same path as here: {error}")
    failed = attempt(job, training, lambda *state: told.put((number, state)))
    if failed is not None:
        return failed
    return {name: (training.folder / name).read_bytes() for name in store.files(training)}


def _receive(training: Training, files: dict[str, bytes]) -> None:
    """Put a training that a node has finished into the local store, unless the node shares that store."""
    if not store.holds(training):
        for name, content in files.items():
            with new_file(training.folder / name) as partial:
                partial.write_bytes(content)
        store.seal(training)
    log_finished(training)
