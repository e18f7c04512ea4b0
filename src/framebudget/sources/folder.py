"""Clips of a folder: <class>/<video>, at any depth below the class."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from framebudget.console import visible

VIDEOS = {
    ".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".3g2", ".mts", ".m2ts", ".ts",
    ".flv", ".ogv",
}  # fmt: skip
ASIDE = {"__MACOSX", "@eaDir"}  # what zips made on a Mac, and some disk stations, put beside the files


class SourceError(ValueError):
    """A folder of clips that cannot be used; the message names the folder or file."""


def find_clips(
    clips: Path, group: str | None, classes: list[str] | str = "all"
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Rows of clip, path, class and group, sorted by path; and what was skipped: (path, reason).

    path is relative to `clips`; clip is the path without its suffix, and unique. `group` is a regular expression
    searched in the path below the class folder; the first of its groups that took part, or all that was matched where
    it has none, names the group; None: each clip is its own. Names count as they look (Unicode NFC), however a system
    stores their accents: Jürgen is one person. Raises SourceError.
    """
    if not clips.is_dir():
        raise SourceError(f"{clips}: no such folder; `clips` in params.yaml says where <class>/<video> lie")
    if not os.access(clips, os.R_OK | os.X_OK):
        raise SourceError(f"{clips}: no permission to look into this folder")
    wanted = classes if classes == "all" else {nfc(name) for name in classes}
    rows, skipped, there = [], [], set()
    for path in sorted(clips.rglob("*")):
        name = path.relative_to(clips).as_posix()
        *above, last = name.split("/")
        if any(map(aside, above)) or (wanted != "all" and above and nfc(above[0]) not in wanted):
            continue  # the folder has been skipped as a whole
        if reason := why_not(path, above, wanted):
            skipped.append((printable(name), reason))
        elif path.is_dir():
            there |= set() if above else {nfc(last)}
        else:
            clip = nfc(name.removesuffix(path.suffix))
            rows.append({"clip": clip, "path": name, "class": nfc(above[0]), "group": clip})
    without = there - {row["class"] for row in rows}
    if torn := [
        printable(name) for name in [*sorted(without), *(row["path"] for row in rows)] if name != printable(name)
    ]:
        raise SourceError(
            f"{clips}: names that are not UTF-8, or have characters that control a terminal: {listed(torn)}; rename "
            "them (convmv does whole folders)"
        )
    if empty := without if wanted == "all" else wanted - {row["class"] for row in rows}:
        raise SourceError(
            f"{clips / min(empty)}: no video in this class; add clips, or remove the folder, or name the classes that "
            "you want (fetch.classes)"
        )
    if len({row["class"] for row in rows}) < 2:
        raise SourceError(f"{clips}: clips of at least two classes are needed, as <class>/<video>")
    if twice := same_clip(rows):
        raise SourceError(
            f"{clips}: {listed(twice)}: they differ in suffix or form of accents alone; remove the copy, or rename one"
        )
    if group:
        unnamed = [row["path"] for row in rows if not name_group(row, group)]
        if unnamed:
            raise SourceError(f"{clips}: the name does not match `fetch.group`, {group}: {listed(unnamed)}")
    return rows, skipped


def why_not(path: Path, above: list[str], wanted: set[str] | str) -> str | None:
    """Why this is neither a clip nor a folder to look into; None if it is."""
    if aside(path.name):
        return "hidden" if path.name.startswith(".") else "no folder of clips"
    if path.is_dir():
        if path.is_symlink():
            return "a link to a folder; put the folder itself here"
        if not os.access(path, os.R_OK | os.X_OK):
            return "no permission to look into this folder"
        return None if above or wanted == "all" or nfc(path.name) in wanted else "not among fetch.classes"
    if path.exists() and not path.is_file():
        return "no file, but a pipe or device"  # which may never end
    if path.suffix.lower() not in VIDEOS:
        return "not a video by its suffix"
    return None if above else "in no class folder"


def aside(name: str) -> bool:
    return name.startswith(".") or name in ASIDE


def same_clip(rows: list[dict]) -> list[str]:
    first, twice = {}, []
    for row in rows:
        if (other := first.setdefault(row["clip"], row["path"])) != row["path"]:
            twice.append(f"{other} and {row['path']}")
    return twice


def name_group(row: dict, pattern: str) -> bool:
    """Set the group of a row; False if the pattern is not in its path."""
    match = re.search(nfc(pattern), nfc(row["path"].split("/", 1)[1]))
    row["group"] = match and next(filter(None, match.groups() if match.re.groups else [match[0]]), None)
    return bool(row["group"])


def printable(name: str) -> str:
    """What no table can hold: bytes that are no UTF-8, of old disks and zips, as \\udce9; control characters as \\r."""
    return visible(name).replace("\n", r"\n")


def nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def listed(names: Iterable[str], most: int = 10) -> str:
    """The first ones, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
