"""Run a command of Frame Budget in a process forked from one that has imported everything: importing takes seconds.

Each is a process like any other, with its own folder, environment, output, signals and exit status; where PYTHONPATH
is set, with the modules of ours that lie there. But all of them share one hash seed.

What starts `python -m framebudget…` itself, such as dvc, gets a `python` that asks for such a process, too (stand_in).
commands.verify compares two hash seeds: `also` serves the second.
"""

import json
import os
import runpy
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from multiprocessing import connection, forkserver, get_context, set_start_method
from pathlib import Path

import numpy as np

STAGES = [f"framebudget.{name}" for name in ("fetch", "split", "train", "evaluate", "figures", "paper")]
COMMANDS = [f"framebudget.commands.{name}" for name in ("cli", "doctor", "predict", "verify")]
LATER = ["framebudget.learning.fit", "framebudget.learning.prediction", "mlflow.pyfunc",
         "mlflow.store.tracking.sqlalchemy_store"]  # fmt: skip
OTHERS = ["tests.hostile.fuzz"]  # multiprocessing has a single fork server, which the fuzzer uses, too
processes = get_context("forkserver")
SEED = "1"
PYTHON = f"""#!{sys.executable} -SE
import json, os, socket, sys
address = __file__ + "." + os.environ.get("PYTHONHASHSEED", "{SEED}")
if sys.argv[1:2] != ["-m"] or not sys.argv[2].startswith("framebudget.") or not os.path.exists(address):
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect(address)
socket.send_fds(server, [b" "], [1, 2])
server.sendall(json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
sys.exit(server.recv(1)[0])
"""


def as_module(command: tuple[str, ...]) -> tuple[str, ...] | None:
    """(module, *arguments) of `framebudget …`, of torchrun, and of `python -m` with a module of ours. None for other
    commands, and for --help, which imports nothing."""
    if command[0] == "torchrun":
        return "torch.distributed.run", *command[1:]
    if command[0] == "framebudget" and "--help" not in command:
        return "framebudget.commands.cli", *command[1:]
    if command[:2] == ("python", "-m") and command[2].startswith(("framebudget.", "tests.")):
        return command[2:]
    return None


BEGINNING = threading.RLock()  # tests run commands from several threads


def once(function):
    """As functools.cache, but threads that call it at the same time wait for the first."""
    cached = cache(function)

    @wraps(function)
    def call():
        with BEGINNING:
            return cached()

    return call


@once
def begin() -> frozenset[str]:
    """Start the process that imports everything. Returns the names of its environment variables."""
    processes.set_forkserver_preload([*STAGES, *COMMANDS, *LATER, *OTHERS])
    os.environ["PYTHONHASHSEED"] = SEED
    forkserver.ensure_running()
    del os.environ["PYTHONHASHSEED"]
    return frozenset(os.environ)


@once
def stand_in() -> str:
    """The folder of a `python` that has modules of ours run in forked processes. First on the PATH, it serves dvc."""
    begin()
    folder = tempfile.TemporaryDirectory(prefix="python")
    program = Path(folder.name, "python")
    program.write_text(PYTHON)
    program.chmod(0o755)
    server = _serve(program)
    server.folder = folder  # which goes when the server does
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return folder.name


def _serve(program: Path | str) -> socketserver.ThreadingUnixStreamServer:
    server = socketserver.ThreadingUnixStreamServer(f"{program}.{SEED}", _Request)
    server.daemon_threads = True
    return server


@contextmanager
def also(seed: str) -> Iterator[None]:
    """Serve another hash seed, too, from a process of its own."""
    program = Path(stand_in(), "python")
    serve = f"forked.SEED = {seed!r}; forked.begin(); forked._serve({str(program)!r}).serve_forever()"
    server = subprocess.Popen(
        [sys.executable, "-c", f"from tests import forked; {serve}"], cwd=Path(__file__).parents[1]
    )
    try:
        while server.poll() is None and not Path(f"{program}.{seed}").exists():
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()
        Path(f"{program}.{seed}").unlink(missing_ok=True)


class _Request(socketserver.BaseRequestHandler):
    """One run of the `python` above: its two outputs, then (arguments, folder, environment); back goes its status."""

    def handle(self) -> None:
        _, outputs, _, _ = socket.recv_fds(self.request, 1, 2)
        module, cwd, environment = json.loads(self.request.makefile().readline())
        out, err = (connection.Connection(output, readable=False) for output in outputs)
        unset = begin() - environment.keys()
        process = processes.Process(target=_main, args=(module, cwd, environment, unset, out, err))
        process.start()
        out.close(), err.close()
        process.join()
        self.request.sendall(bytes([process.exitcode % 256]))


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
    time.tzset()
    sys.argv = list(module)
    sys.modules.pop(module[0], None)  # runpy warns about a module that is already imported
    if path := environment.get("PYTHONPATH"):
        sys.path[:0] = path.split(os.pathsep)
        for name in [name for name in sys.modules if name.partition(".")[0] == "framebudget"]:
            del sys.modules[name]
    runpy.run_module(module[0], run_name="__main__", alter_sys=True)
