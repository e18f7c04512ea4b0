"""Run a command of Frame Budget in a process forked from one that has imported everything: importing takes seconds.

Each is a process like any other, with its own folder, environment, output, signals and exit status. But all of them
share one hash seed. commands.verify compares two seeds, in new processes (tests/commands/test_verify.py).
"""

import os
import runpy
import subprocess
import sys
from functools import cache
from multiprocessing import connection, forkserver, get_context, set_start_method
from pathlib import Path

import numpy as np

STAGES = [f"framebudget.{name}" for name in ("fetch", "split", "train", "evaluate", "figures", "paper")]
COMMANDS = [f"framebudget.commands.{name}" for name in ("cli", "doctor", "predict", "verify")]
LATER = ["framebudget.learning.fit", "framebudget.learning.prediction", "mlflow.pyfunc",
         "mlflow.store.tracking.sqlalchemy_store"]  # fmt: skip
OTHERS = ["tests.hostile.fuzz"]  # multiprocessing has a single fork server, which the fuzzer uses, too
processes = get_context("forkserver")


def as_module(command: tuple[str, ...]) -> tuple[str, ...] | None:
    """(module, *arguments) of `framebudget …`, and of `python -m` with a module of ours. None for other commands, and
    for --help, which imports nothing."""
    if command[0] == "framebudget" and "--help" not in command:
        return "framebudget.commands.cli", *command[1:]
    if command[:2] == ("python", "-m") and command[2].startswith(("framebudget.", "tests.")):
        return command[2:]
    return None


@cache
def begin() -> frozenset[str]:
    """Start the process that imports everything. Returns the names of its environment variables."""
    processes.set_forkserver_preload([*STAGES, *COMMANDS, *LATER, *OTHERS])
    forkserver.ensure_running()
    return frozenset(os.environ)


class Forked:
    """Works like subprocess.Popen with pipes and text. The process leads its own process group."""

    def __init__(self, module: tuple[str, ...], cwd: Path, environment: dict[str, str], together: bool):
        """together: stderr goes to stdout."""
        unset = begin() - environment.keys()
        pipes = [processes.Pipe(duplex=False) for _ in range(1 if together else 2)]
        writers = [writer for _, writer in pipes]
        self.readers = [reader for reader, _ in pipes]
        self.process = processes.Process(target=_main, args=(module, cwd, environment, unset, writers[0], writers[-1]))
        self.process.start()
        self.pid = self.process.pid
        for writer in writers:
            writer.close()

    def poll(self) -> int | None:
        return self.process.exitcode

    returncode = property(poll)

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        """Wait for it to end, and for every process that holds its outputs to close them. Returns (out, err).

        Raises TimeoutExpired if none of them prints anything for `timeout` seconds.
        """
        said, unread = {reader: b"" for reader in self.readers}, list(self.readers)
        while unread:
            if not (ready := connection.wait(unread, timeout)):
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            for reader in ready:
                said[reader] += (part := os.read(reader.fileno(), 2**16))
                if not part:
                    unread.remove(reader)
        self.wait(timeout)
        out, err = [*(text.decode() for text in said.values()), None][:2]
        return out, err

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _main(
    module: tuple[str, ...], cwd: Path, environment: dict[str, str], unset: frozenset[str],
    out: connection.Connection, err: connection.Connection,
) -> None:  # fmt: skip
    set_start_method(None, force=True)  # the default of a new process
    np.random.seed()  # a new seed from the system, as in a new process
    os.setsid()
    os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
    out.close(), err.close()
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", 1)  # the old ones expect files
    os.chdir(cwd)
    for name in unset:
        os.environ.pop(name, None)
    os.environ.update(environment)
    sys.argv = list(module)
    sys.modules.pop(module[0], None)  # runpy warns about a module that is already imported
    runpy.run_module(module[0], run_name="__main__", alter_sys=True)
