"""Download files; a connection that fails is tried again."""

import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock
from remotezip import RemoteIOError
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from framebudget.console import UserError, new_file

TRIES = 5
PAUSE = 1.0  # seconds before the second try, twice as long before each one after it
TIMEOUT = 30  # seconds without a byte
FAULTS = requests.RequestException, HTTPError, RemoteIOError, zipfile.BadZipFile, zlib.error, EOFError


class DownloadError(UserError):
    """A file that is not here and cannot be downloaded; the message names it."""


def retried(act: Callable, tries: int = TRIES) -> Any:
    """What `act` returns. After a pause, it runs again if the connection failed or delivered broken data."""
    for pause in (PAUSE * 2**k for k in range(tries - 1)):
        try:
            return act()
        except FAULTS as error:
            response = getattr(error.__context__ or error, "response", None)
            if response is not None and 400 <= response.status_code < 500 and response.status_code != 429:
                raise
            time.sleep(pause)
    return act()


def download(url: str, path: Path) -> None:
    """Download a file, unless it exists. Raises DownloadError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(path.name + ".lock")):
            if not path.exists():
                retried(partial(attempt, url, path))
    except FAULTS as error:
        way_out = "run the same command again, or download the file by other means and name it in params.yaml"
        raise DownloadError(f"{url}: {error}; {way_out}") from None


def attempt(url: str, path: Path) -> None:
    with requests.get(url, stream=True, timeout=TIMEOUT) as response, new_file(path) as unfinished:
        response.raise_for_status()
        progress = {"desc": path.name, "total": response.raw.length_remaining, "disable": None}
        with unfinished.open("wb") as file, tqdm.wrapattr(file, "write", **progress) as out:
            for chunk in response.iter_content(2**16):
                out.write(chunk)
