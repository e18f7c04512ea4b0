"""Read the wanted classes of UCF101 out of its zip: by HTTP ranges, or from a copy on disk."""

import re
import shutil
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path, PurePosixPath

import requests
from filelock import FileLock
from remotezip import RemoteZip, RemoteZipError
from tqdm import tqdm

from framebudget.console import MACHINE, listed, new_file
from framebudget.sources import download
from framebudget.sources.folder import SourceError

CLIP = re.compile(r"v_([A-Za-z]+)_g\d\d_c\d\d\.avi")
FOLDERS = {"HandStandPushups": "HandstandPushups"}  # file names spell this one class differently
COMPRESSIONS = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED  # others may need gigabytes
LARGEST = 2**26  # bytes; the archive's 13,320 clips have about half a megabyte each
# Faults of a network or of a damaged zip. An encrypted member raises RuntimeError.
FAULTS = *download.FAULTS, RemoteZipError, OSError, ValueError, RuntimeError, OverflowError, struct.error
WAYS_OUT = (
    "The clips read so far are kept. There are three ways to continue: run the same command again; or name the "
    "extracted folder, -S clips=PATH/UCF-101; or download the zip yourself and name it, -S clips=PATH/UCF101_videos.zip"
)


def fetch_clips(archive: str, classes: list[str] | str, folder: Path) -> set[str]:
    """Extract the clips of these classes, or of `all`, to <folder>/<Class>/<clip>, each of them whole or not at all.

    archive: a file, or a URL, of which only these clips are read. Clips already here, by size and CRC, are kept.
    Returns their paths below the folder. Raises SourceError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(folder.name + ".lock")), requests.Session() as session:
            source = Archive(archive, session)
            clips = clips_of(archive, source.zip.infolist(), classes)
            size = sum(info.file_size for info in clips.values())
            with tqdm(desc="UCF101", total=size, unit="B", unit_scale=True, disable=None) as bar:
                for name, info in clips.items():
                    if not is_there(folder / name, info):
                        download.retried(partial(source.extract, info, folder / name), source.tries)
                    bar.update(info.file_size)
            return set(clips)
    except FAULTS as error:
        if getattr(error, "errno", None) in MACHINE:
            raise
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{archive}: cannot be read ({reason}). {WAYS_OUT}") from None


class Archive:
    """A zip on disk or at a URL. Over the network, it retries every read."""

    def __init__(self, name: str, session: requests.Session):
        session.hooks["response"].append(limited)
        remote = name.startswith(("http://", "https://"))
        options = {"session": session, "timeout": download.TIMEOUT} if remote else {}
        self.open = partial(RemoteZip if remote else zipfile.ZipFile, name, **options)
        self.tries = download.TRIES if remote else 1
        self.zip = download.retried(self.open, self.tries)

    def extract(self, info: zipfile.ZipInfo, path: Path) -> None:
        """Extract a member, whole or not at all. zipfile checks the CRC, and reads no more than the announced size."""
        try:
            with new_file(path) as unfinished, self.zip.open(info) as stream, unfinished.open("wb") as file:
                shutil.copyfileobj(stream, file)
        except download.FAULTS:
            self.zip = self.open()  # the old one may have stopped anywhere in its stream
            raise


def limited(response: requests.Response, **_: object) -> None:
    """Raises SourceError if a part of the archive is larger than its list of members or any clip can be."""
    size = response.raw.length_remaining  # None if the server does not say
    if response.status_code == 206 and (size is None or size > LARGEST):
        raise SourceError(f"{response.url}: not the archive of UCF101: a part of it has more than {LARGEST:,} bytes")


def clips_of(archive: str, infos: list[zipfile.ZipInfo], classes: list[str] | str) -> dict[str, zipfile.ZipInfo]:
    """{<Class>/<clip>: member}, by name, whatever folders the archive keeps them in. Raises SourceError."""
    clips = {}
    for info in infos:
        name = PurePosixPath(info.filename).name
        if match := CLIP.fullmatch(name):
            path = f"{FOLDERS.get(match[1], match[1])}/{name}"
            if path in clips or info.file_size > LARGEST or info.compress_type not in COMPRESSIONS:
                fault = f"is in it twice, has more than {LARGEST:,} bytes, or is compressed in an unusual way"
                raise SourceError(f"{archive}: not the archive of UCF101: {info.filename} {fault}")
            clips[path] = info
    if not clips:
        way_out = "extract any other archive yourself, and name its folder (clips in params.yaml)"
        raise SourceError(f"{archive}: no clip of UCF101, v_<Class>_g<number>_c<number>.avi, is in it; {way_out}")
    available = {path.partition("/")[0] for path in clips}
    wanted = available if classes == "all" else set(classes)
    if missing := sorted(wanted - available):
        there = listed(sorted(available), 101)
        raise SourceError(f"{archive}: no clips of {listed(missing)} (fetch.classes in params.yaml); there are {there}")
    return {path: info for path, info in sorted(clips.items()) if path.partition("/")[0] in wanted}


def is_there(path: Path, info: zipfile.ZipInfo) -> bool:
    return path.is_file() and path.stat().st_size == info.file_size and zlib.crc32(path.read_bytes()) == info.CRC
