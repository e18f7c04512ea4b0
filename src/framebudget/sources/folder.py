"""Clips of a folder: <class>/<video>, at any depth below the class."""

import re
from pathlib import Path

VIDEOS = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp"}


class SourceError(ValueError):
    """A folder of clips that cannot be used; the message names the folder or file."""


def find_clips(clips: Path, group: str | None, classes: list[str] | str = "all") -> tuple[list[dict], list[str]]:
    """Rows of clip, path, class and group, sorted by path, and what was left out, with the reason.

    path is relative to `clips`; clip is the path without its suffix, and unique. `group` is a regular expression
    searched in the file name; its first group, or all it matched, names the group; None: each clip is its own.
    Raises SourceError.
    """
    if not clips.is_dir():
        raise SourceError(f"{clips}: no such folder; `clips` in params.yaml says where <class>/<video> lie")
    rows, left_out = [], []
    for path in sorted(clips.rglob("*")):
        name = path.relative_to(clips).as_posix()
        if path.is_dir() or (classes != "all" and name.split("/")[0] not in classes):
            continue
        if path.suffix.lower() not in VIDEOS:
            left_out.append(f"{name}: not a video by its suffix")
        elif "/" not in name:
            left_out.append(f"{name}: in no class folder")
        else:
            clip = name.removesuffix(path.suffix)
            rows.append({"clip": clip, "path": name, "class": name.split("/")[0], "group": clip})
    there = {folder.name for folder in clips.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    empty = (there if classes == "all" else set(classes)) - {row["class"] for row in rows}
    if empty:
        raise SourceError(f"{clips / min(empty)}: no video in this class; add clips, or leave it out (fetch.classes)")
    if len({row["class"] for row in rows}) < 2:
        raise SourceError(f"{clips}: clips of at least two classes are needed, as <class>/<video>")
    seen = {}
    for row in rows:
        if group:
            match = re.search(group, row["path"].rsplit("/", 1)[1])
            if not match:
                raise SourceError(f"{clips / row['path']}: the name does not match `fetch.group`, {group}")
            row["group"] = match[1] if match.re.groups else match[0]
        if (other := seen.setdefault(row["clip"], row["path"])) != row["path"]:
            raise SourceError(f"{clips / row['path']} and {other} differ in the suffix alone; rename one")
    return rows, left_out
