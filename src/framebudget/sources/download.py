"""Download files: retry a connection that fails, and resume a file where it was cut."""

import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import urllib3
from filelock import FileLock
from remotezip import RemoteIOError
from tqdm import tqdm

from framebudget.console import UserError

TRIES = 5
PAUSE = 1.0  # seconds before the second try, twice as long before each one after it
TIMEOUT = 30  # seconds without a byte
FAULTS = (
    requests.RequestException, urllib3.exceptions.HTTPError, RemoteIOError, zipfile.BadZipFile, zlib.error, EOFError
)  # fmt: skip


class DownloadError(UserError):
    """A file is missing and cannot be downloaded. The message names the URL and the part that is kept."""


def retried(act: Callable, tries: int = TRIES) -> Any:
    """Return what `act` returns. Retry after a pause if the connection fails or delivers broken data."""
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
    """Download a file, unless it exists. <path>.partial keeps the beginning, and the next call resumes there.

    Raises DownloadError.
    """
    partial, etag, lock = (path.with_name(path.name + end) for end in (".partial", ".partial.etag", ".lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock), requests.Session() as session:
            if not path.exists():
                retried(lambda: resume(session, url, partial, etag))
                partial.replace(path)
                etag.unlink()
    except FAULTS as error:
        kept = partial.stat().st_size if partial.exists() else 0
        raise DownloadError(
            f"{url}: {error}. {kept:,} bytes are kept in {partial}; to resume, run the same command again, or download "
            "the file yourself and name it in params.yaml"
        ) from None


def resume(session: requests.Session, url: str, partial: Path, etag: Path) -> None:
    """Download the rest of a partial file, or all of it if its saved ETag is no longer the server's."""
    held, version = partial.stat().st_size if partial.exists() else 0, etag.read_text() if etag.exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if held and version:
        headers |= {"Range": f"bytes={held}-", "If-Range": version}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code == 416 and total == str(held):
            return
        response.raise_for_status()
        if response.status_code != 206:
            held, total = 0, response.headers.get("Content-Length", "")
            etag.write_text(response.headers.get("ETag", ""))
        progress = {"desc": url.rsplit("/", 1)[1], "initial": held, "total": int(total) if total.isdigit() else None}
        with (
            partial.open("ab" if held else "wb") as file,
            tqdm.wrapattr(file, "write", **progress, disable=None) as out,
        ):
            for chunk in response.iter_content(2**16):
                out.write(chunk)
    if total.isdigit() and partial.stat().st_size != int(total):
        raise EOFError(f"{partial.stat().st_size} of {total} bytes arrived")
