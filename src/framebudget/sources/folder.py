"""Find the clips of a folder: <class>/<video>, at any depth below the class."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from framebudget.console import UserError, visible

VIDEOS = {
    ".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".3g2", ".mts", ".m2ts", ".ts",
    ".flv", ".ogv",
}  # fmt: skip
SYSTEM = {"__MACOSX", "@eaDir"}  # folders that zips made on a Mac, and some disk stations, add


class SourceError(UserError):
    """A folder or archive of clips that cannot be used; the message names the folder or file."""


def find_clips(
    clips: Path, group: str | None, classes: list[str] | str = "all"
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Rows of clip, path, class and group, sorted by path; and (path, reason) of everything that is skipped.

    path is relative to `clips`; clip is the path without its suffix, and unique. `group` is a regular expression that
    is searched in the path below the class folder: its first capture group that matched, or the whole match if it has
    none, names the group; None makes each clip its own group. Names are compared as they look (Unicode NFC), however
    a system stores their accents: Jürgen is one person. Raises SourceError.
    """
    if not clips.is_dir():
        raise SourceError(f"{clips}: no such folder; `clips` in params.yaml must name the folder of <class>/<video>")
    if not os.access(clips, os.R_OK | os.X_OK):
        raise SourceError(f"{clips}: no permission to read this folder")
    wanted = classes if classes == "all" else {nfc(name) for name in classes}
    rows, skipped, folders = scan(clips, wanted)
    check(clips, rows, folders, wanted)
    first = {row["clip"]: row["path"] for row in reversed(rows)}
    if twins := [f"{first[row['clip']]} and {row['path']}" for row in rows if first[row["clip"]] != row["path"]]:
        raise SourceError(
            f"{clips}: {listed(twins)}: they differ only in suffix or form of accents; remove the copy, or rename one"
        )
    if group:
        rows = [row | {"group": group_of(row["path"], group)} for row in rows]
        if unmatched := [row["path"] for row in rows if not row["group"]]:
            raise SourceError(f"{clips}: `fetch.group`, {group}, does not match {listed(unmatched)}; change either")
    return rows, skipped


def scan(clips: Path, wanted: set[str] | str) -> tuple[list[dict], list[tuple[str, str]], set[str]]:
    """Rows whose group is the clip, (path, reason) of what is skipped, and the names of the class folders."""
    rows, skipped, folders = [], [], set()
    for path in sorted(clips.rglob("*")):
        name = path.relative_to(clips).as_posix()
        *parents, last = name.split("/")
        if any(map(ignored, parents)) or (wanted != "all" and parents and nfc(parents[0]) not in wanted):
            continue  # inside a folder that is skipped as a whole
        if reason := reason_to_skip(path, parents, wanted):
            skipped.append((printable(name), reason))
        elif not path.is_dir():
            clip = nfc(name.removesuffix(path.suffix))
            rows.append({"clip": clip, "path": name, "class": nfc(parents[0]), "group": clip})
        elif not parents:
            folders.add(nfc(last))
    return rows, skipped, folders


def reason_to_skip(path: Path, parents: list[str], wanted: set[str] | str) -> str | None:
    """Why this is neither a clip nor a folder to search; None if it is."""
    if ignored(path.name):
        return "hidden" if path.name.startswith(".") else "a system folder"
    if path.is_dir():
        if path.is_symlink():
            return "a link to a folder; put the folder itself here"
        if not os.access(path, os.R_OK | os.X_OK):
            return "no permission to read this folder"
        return None if parents or wanted == "all" or nfc(path.name) in wanted else "not among fetch.classes"
    if path.exists() and not path.is_file():
        return "no file, but a pipe or device"  # reading it may never end
    if path.suffix.lower() not in VIDEOS:
        return "not a video by its suffix"
    return None if parents else "in no class folder"


def ignored(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def check(clips: Path, rows: list[dict], folders: set[str], wanted: set[str] | str) -> None:
    """Raises SourceError if a name cannot be printed, a class has no clip, or there are fewer than two classes."""
    classes = {row["class"] for row in rows}
    names = [*sorted(folders - classes), *(row["path"] for row in rows)]
    if bad := [printable(name) for name in names if name != printable(name)]:
        raise SourceError(
            f"{clips}: names that are not UTF-8, or have characters that control a terminal: {listed(bad)}; rename "
            "them (convmv does whole folders)"
        )
    if empty := (folders if wanted == "all" else wanted) - classes:
        raise SourceError(
            f"{clips / min(empty)}: no video in this class; add clips, or remove the folder, or name the classes that "
            "you want (fetch.classes)"
        )
    if len(classes) < 2:
        raise SourceError(f"{clips}: clips of at least two classes are needed, as <class>/<video>")


def group_of(path: str, pattern: str) -> str | None:
    match = re.search(nfc(pattern), nfc(path.split("/", 1)[1]))
    return match and next(filter(None, match.groups() if match.re.groups else [match[0]]), None)


def printable(name: str) -> str:
    """The name on one line; undecodable bytes and control characters, which no table can hold, as \\udce9 and \\r."""
    return visible(name).replace("\n", r"\n")


def nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def listed(names: Iterable[str], limit: int = 10) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
