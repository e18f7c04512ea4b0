"""Clips of UCF101, read out of its zip: the wanted classes alone, by HTTP ranges, or from a copy on disk."""

import difflib
import errno
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import requests
from filelock import FileLock
from remotezip import RangeNotSupported, RemoteZip
from tqdm import tqdm

from framebudget.sources import download
from framebudget.sources.folder import SourceError

CLIP = re.compile(r"v_([A-Za-z]+)_g\d\d_c\d\d\.avi")
FOLDERS = {"HandStandPushups": "HandstandPushups"}  # the one class that file names spell otherwise
LARGEST = 2**26  # bytes; the 13,320 clips of the archive have half a megabyte each
WAYS_OUT = (
    "What has come is kept. Three ways on: run it again where the network is; or give the extracted folder, "
    "-S clips=PATH/UCF-101; or the zip, downloaded by other means, -S clips=PATH/UCF101_videos.zip"
)


def fetch_clips(archive: str, classes: list[str] | str, folder: Path) -> None:
    """Bring the clips of these classes, or of `all`, to <folder>/<Class>/<clip>, each of them whole or not at all.

    archive: a URL, of which only these clips are read, or a file. What is there already, by size and CRC, stays.
    Raises SourceError.
    """
    remote = archive.startswith(("http://", "https://"))
    tries = download.TRIES if remote else 1
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")), requests.Session() as session:
        session.hooks["response"].append(same_archive(archive))

        def opened() -> zipfile.ZipFile:
            return RemoteZip(archive, session=session, timeout=download.TIMEOUT) if remote else zipfile.ZipFile(archive)

        try:
            source = download.retried(opened, tries)
            clips = clips_of(archive, source.infolist(), classes)
            missing = {name: info for name, info in clips.items() if not is_there(folder / name, info)}
            size, needed = (sum(info.file_size for info in infos.values()) for infos in (clips, missing))
            if needed > (free := shutil.disk_usage(folder).free):
                raise SourceError(f"{archive}: {needed:,} bytes are needed in {folder}, and {free:,} are free")
            with tqdm(desc="UCF101", total=size, initial=size - needed, unit="B", unit_scale=True, disable=None) as bar:
                for name, info in missing.items():

                    def bring(name: str = name, info: zipfile.ZipInfo = info) -> None:
                        nonlocal source
                        try:
                            extract(source, info, folder / name)
                        except download.FAULTS:
                            source = opened()  # the old one may stand anywhere in its stream
                            raise

                    download.retried(bring, tries)
                    bar.update(info.file_size)
        except FileNotFoundError:
            raise SourceError(f"{archive}: no such file") from None
        except RangeNotSupported:
            raise SourceError(f"{archive}: the server gives whole files only. {WAYS_OUT}") from None
        except download.FAULTS as error:
            raise SourceError(f"{archive}: {error}. {WAYS_OUT}") from None
        except (ValueError, OSError, NotImplementedError, OverflowError, struct.error) as error:  # of a damaged zip
            if isinstance(error, SourceError) or getattr(error, "errno", errno.EINVAL) != errno.EINVAL:
                raise
            raise SourceError(f"{archive}: damaged ({error}). {WAYS_OUT}") from None


def same_archive(archive: str) -> Callable:
    """A hook for every response, that raises SourceError if the archive is not what it was at the first one.

    Or if a part of it is larger than the list of its members, or any of them, can be.
    """
    first = {}

    def check(response: requests.Response, **_: object) -> None:
        found = response.headers.get("Content-Range", "").rpartition("/")[2], response.headers.get("ETag")
        if response.status_code == 206 and first.setdefault("seen", found) != found:
            raise SourceError(f"{archive}: it was changed while it was read; what has come is kept, run it again")
        if response.status_code == 206 and int(response.headers.get("Content-Length", -1)) not in range(LARGEST + 1):
            raise SourceError(f"{archive}: not the archive of UCF101: a part of it has more than {LARGEST:,} bytes")

    return check


def clips_of(archive: str, infos: list[zipfile.ZipInfo], classes: list[str] | str) -> dict[str, zipfile.ZipInfo]:
    """{<Class>/<clip>: member}, by name, whatever folders the archive keeps them in. Raises SourceError.

    An archive that is not what it should be is refused before anything of it is written.
    """
    found, there = {}, set()
    for info in infos:
        name = PurePosixPath(info.filename).name
        match = CLIP.fullmatch(name)
        if not match:
            continue
        folder = FOLDERS.get(match[1], match[1])
        there.add(folder)
        if classes != "all" and folder not in classes:
            continue
        climbs = info.filename.startswith("/") or ".." in PurePosixPath(info.filename).parts
        faults = {
            "climbs out of its folder": climbs,
            "is a link": stat.S_ISLNK(info.external_attr >> 16),
            "is encrypted": info.flag_bits & 1,
            "is compressed in an unusual way": info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            f"is said to have {info.file_size:,} bytes, which no clip of UCF101 has": info.file_size > LARGEST,
            "is in it twice": f"{folder}/{name}" in found,
        }
        for fault, so in faults.items():
            if so:
                raise SourceError(f"{archive}: not the archive of UCF101: {info.filename} {fault}")
        found[f"{folder}/{name}"] = info
    for name in [] if classes == "all" else classes:
        if name not in there:
            near = difflib.get_close_matches(name, there) or sorted(there)[:5]
            raise SourceError(f"{archive}: no clips of {name!r} (fetch.classes); there are {', '.join(near) or 'none'}")
    return dict(sorted(found.items()))


def is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC


def extract(source: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """zipfile compares the CRC at the end, and never reads more than the size that was said."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with source.open(info) as stream, partial.open("wb") as file:
        shutil.copyfileobj(stream, file)
    if partial.stat().st_size != info.file_size:
        raise EOFError(f"{info.filename} ends after {partial.stat().st_size:,} of {info.file_size:,} bytes")
    partial.replace(path)
