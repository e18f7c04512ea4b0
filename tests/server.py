"""Real servers on loopback: of files, with ranges, that can be told to misbehave; and MLflow's."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests


class Server(ThreadingHTTPServer):
    """files: {path: content}. faults: what goes wrong with the next answers, one each. asked: ranges, None for all."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.always: str | None = None
        self.asked: list[str | None] = []
        self.sent = 0
        self.etag = '"1"'

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, content = self.server, self.server.files.get(self.path[1:])
        fault = server.faults.pop(0) if server.faults else server.always
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if fault in ("500", "503") or content is None:
            self.send_error(int(fault) if fault else 404)
            return
        if self.headers.get("If-Range", server.etag) != server.etag or fault == "whole":
            asked = None
        first, last, size = 0, len(content) - 1, len(content)
        if asked:
            start, end = re.fullmatch(r"bytes=(-?\d*)-?(\d*)", asked).groups()
            first = max(0, size + int(start)) if start.startswith("-") else int(start)
            last = min(last, int(end)) if end else last
        if first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if fault == "wrong" and asked and "=-" not in asked:  # in a clip, not in the directory
            body = body[:-9] + bytes(byte ^ 1 for byte in body[-9:])
        if fault in ("cut", "stall", "silence"):
            body = body[: 0 if fault == "silence" else len(body) // 2]
        server.sent += len(body)  # before the client, which ends with the last byte, can look at it
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
            self.wfile.flush()
        if fault in ("stall", "silence"):
            time.sleep(2)
        self.close_connection = fault in ("cut", "stall", "silence")


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def free_address() -> str:
    """Where nobody answers yet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


@contextlib.contextmanager
def serving_mlflow(folder: Path, uri: str, store: str) -> Iterator[None]:
    """A real MLflow server, with its runs in `store`; killed at the end."""
    command = [
        *("env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"),  # as in the Makefile
        *("mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2], "--workers", "1"),
        *("--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")),
    ]
    with answering(command, folder, uri):
        yield


@contextlib.contextmanager
def answering(command: list[str], cwd: Path, uri: str) -> Iterator[None]:
    """MLflow, started by this command, once it answers; killed at the end, with all that it started."""
    log, path = cwd / "server.log", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=cwd, env=os.environ | {"PATH": path}, start_new_session=True, stdout=file, stderr=file
        )
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{uri}/health", timeout=1).ok:
                    break
            time.sleep(0.1)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
