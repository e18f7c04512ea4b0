"""Read the wanted classes of UCF101 out of its zip: by HTTP ranges, or from a copy on disk."""

import contextlib
import difflib
import errno
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import requests
from filelock import FileLock
from remotezip import RemoteZip, RemoteZipError
from tqdm import tqdm

from framebudget.sources import download
from framebudget.sources.folder import SourceError

CLIP = re.compile(r"v_([A-Za-z]+)_g\d\d_c\d\d\.avi")
FOLDERS = {"HandStandPushups": "HandstandPushups"}  # file names spell this one class differently
LARGEST = 2**26  # bytes; the 13,320 clips of the archive have half a megabyte each
FAULTS = (  # of a network or a damaged zip
    *download.FAULTS, RemoteZipError, ValueError, OSError, NotImplementedError, OverflowError, struct.error
)  # fmt: skip
WAYS_OUT = (
    "The clips that are already here are kept. There are three ways on: run the same command again with a network; or "
    "name the extracted folder, -S clips=PATH/UCF-101; or download the zip by other means and name it, "
    "-S clips=PATH/UCF101_videos.zip"
)


def fetch_clips(archive: str, classes: list[str] | str, folder: Path) -> None:
    """Extract the clips of these classes, or of `all`, to <folder>/<Class>/<clip>, each of them whole or not at all.

    archive: a file, or a URL, of which only these clips are read. Clips that are here already, by size and CRC, stay.
    Raises SourceError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    with lock, explained(archive), requests.Session() as session:
        source = Archive(archive, session)
        clips = clips_of(archive, source.zip.infolist(), classes)
        missing = {name: info for name, info in clips.items() if not is_there(folder / name, info)}
        size, needed = (sum(info.file_size for info in infos.values()) for infos in (clips, missing))
        if needed > (free := shutil.disk_usage(folder).free):
            raise SourceError(f"{folder}: {archive} needs {needed:,} bytes, and {free:,} are free; make room")
        with tqdm(desc="UCF101", total=size, initial=size - needed, unit="B", unit_scale=True, disable=None) as bar:
            for name, info in missing.items():
                source.extract(info, folder / name)
                bar.update(info.file_size)


class Archive:
    """A zip on disk or at a URL. Over the network, everything is tried several times."""

    def __init__(self, name: str, session: requests.Session):
        session.hooks["response"].append(same_archive(name))
        remote = name.startswith(("http://", "https://"))
        options = {"session": session, "timeout": download.TIMEOUT} if remote else {}
        self.open = partial(RemoteZip if remote else zipfile.ZipFile, name, **options)
        self.tries = download.TRIES if remote else 1
        self.zip = download.retried(self.open, self.tries)

    def extract(self, info: zipfile.ZipInfo, path: Path) -> None:
        """Whole or not at all. zipfile checks the CRC at the end, and never reads more than the announced size."""
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_name(path.name + ".partial")

        def attempt() -> None:
            try:
                with self.zip.open(info) as stream, unfinished.open("wb") as file:
                    shutil.copyfileobj(stream, file)
                if (size := unfinished.stat().st_size) != info.file_size:
                    raise EOFError(f"{info.filename} ends after {size:,} of {info.file_size:,} bytes")
            except download.FAULTS:
                self.zip = self.open()  # the old one may be anywhere in its stream
                raise

        download.retried(attempt, self.tries)
        unfinished.replace(path)


@contextlib.contextmanager
def explained(archive: str) -> Iterator[None]:
    """Turn these faults into a SourceError, but not those of the system, such as a full disk."""
    try:
        yield
    except FAULTS as error:
        if getattr(error, "errno", None) not in (None, errno.EINVAL, errno.ENOENT):
            raise
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{archive}: cannot be read ({reason}). {WAYS_OUT}") from None


def same_archive(archive: str) -> Callable:
    """A hook for every response; it raises SourceError if the archive has changed since the first one.

    Also if a response is larger than the list of the archive's members, or any clip, can be.
    """
    first = {}

    def check(response: requests.Response, **_: object) -> None:
        if response.status_code != 206:
            return
        version = response.headers.get("Content-Range", "").rpartition("/")[2], response.headers.get("ETag")
        if first.setdefault("version", version) != version:
            raise SourceError(f"{archive}: it changed during the download; run the same command again")
        if int(response.headers.get("Content-Length", -1)) not in range(LARGEST + 1):
            raise SourceError(f"{archive}: not the archive of UCF101: a part of it has more than {LARGEST:,} bytes")

    return check


def clips_of(archive: str, infos: list[zipfile.ZipInfo], classes: list[str] | str) -> dict[str, zipfile.ZipInfo]:
    """{<Class>/<clip>: member}, by name, whatever folders the archive keeps them in.

    Raises SourceError if a member is not what it should be, before anything is written.
    """
    clips, available = {}, set()
    for info in infos:
        name = PurePosixPath(info.filename).name
        match = CLIP.fullmatch(name)
        if not match:
            continue
        folder = FOLDERS.get(match[1], match[1])
        available.add(folder)
        if classes == "all" or folder in classes:
            if fault := "is in it twice" if f"{folder}/{name}" in clips else fault_of(info):
                raise SourceError(f"{archive}: not the archive of UCF101: {info.filename} {fault}")
            clips[f"{folder}/{name}"] = info
    for name in [] if classes == "all" else classes:
        if name not in available:
            near = ", ".join(difflib.get_close_matches(name, available) or sorted(available)[:5]) or "none"
            raise SourceError(f"{archive}: no clips of {name!r} (fetch.classes in params.yaml); there are {near}")
    return dict(sorted(clips.items()))


def fault_of(info: zipfile.ZipInfo) -> str | None:
    """Why a member cannot be a clip of UCF101."""
    faults = {
        "climbs out of its folder": info.filename.startswith("/") or ".." in PurePosixPath(info.filename).parts,
        "is a link": stat.S_ISLNK(info.external_attr >> 16),
        "is encrypted": info.flag_bits & 1,
        "is compressed in an unusual way": info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
        f"has {info.file_size:,} bytes, which no clip of UCF101 has": info.file_size > LARGEST,
    }
    return next((fault for fault, found in faults.items() if found), None)


def is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC
