"""Find the clips of a folder: <class>/<video>, at any depth below the class."""

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from framebudget.console import UserError, listed, visible

VIDEOS = {
    ".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp", ".3g2", ".mts", ".m2ts", ".ts",
    ".flv", ".ogv",
}  # fmt: skip
LINK, UNREADABLE = "a link to a folder; put the folder itself here", "no permission to read this folder"
SYSTEM = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}  # folders that systems add
SUBSETS = {  # by their usual names
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


class SourceError(UserError):
    """A folder or archive of clips that cannot be used. The message names the folder or file."""


def find_clips(
    clips: Path, group: str | None, classes: list[str] | str = "all"
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Rows of clip, path, class and group, sorted by path; and (path, reason) of everything that is skipped.

    path is relative to `clips`; clip is the path without its suffix, and unique. `group` is a regular expression that
    is searched in the path below the class folder: its first capture group that matched, or the whole match if it has
    none, names the group; None makes each clip its own group. Names are compared as they look (Unicode NFC), however a
    system stores their accents: Jürgen is one person. Raises SourceError.
    """
    if clips.is_file():
        raise SourceError(f"{clips}: a file; `clips` is a folder or a table, .csv or .tsv; unpack an archive")
    if not clips.is_dir() or not os.access(clips, os.R_OK | os.X_OK):
        way_out = "`clips` in params.yaml must name the folder of <class>/<video>"
        raise SourceError(f"{clips}: no such folder, or no permission to read it; {way_out}")
    wanted = set() if classes == "all" else {nfc(name) for name in classes}
    rows, skipped, folders = [], [], set()
    for path, reason in walk(clips, lambda path: reason_to_skip(path, path.parent == clips, wanted)):
        name = path.relative_to(clips).as_posix()
        top, _, below = name.partition("/")
        if reason:
            skipped.append((printable(name), reason))
        elif not path.is_dir():
            clip = nfc(name.removesuffix(path.suffix))
            own = group_of(below, group) if group else clip
            rows.append({"clip": clip, "path": name, "class": nfc(top), "group": own})
        elif not below:
            folders.add(nfc(top))
    check(clips, rows, folders, wanted, group, skipped)
    return rows, skipped


def walk(folder: Path, reason_to_skip: Callable[[Path], str | None]) -> Iterator[tuple[Path, str | None]]:
    """Everything below a folder, sorted, and the reason to skip it, but nothing inside a skipped folder."""
    passed = set()
    for path in sorted(folder.rglob("*")):  # a folder comes before its contents
        if path.parent in passed:
            passed.add(path)
            continue
        if reason := reason_to_skip(path):
            passed.add(path)
        yield path, reason


def reason_to_skip(path: Path, at_top: bool = False, wanted: Collection[str] = ()) -> str | None:
    """Why this is neither a clip nor a folder to search; None if it is. wanted: the classes, empty for all."""
    if path.name.startswith("."):
        return "hidden"
    if path.name in SYSTEM:
        return "a system folder"
    if path.is_dir():
        if at_top and wanted and nfc(path.name) not in wanted:
            return "not among fetch.classes"
        if path.is_symlink():
            return LINK
        if not os.access(path, os.R_OK | os.X_OK):
            return UNREADABLE
        return None
    if path.exists() and not path.is_file():
        return "a pipe or device, not a file"  # reading it may never end
    if path.suffix.lower() not in VIDEOS:
        return "not a video by its suffix"
    return "in no class folder" if at_top else None


def check(
    clips: Path, rows: list[dict], found: set[str], wanted: set[str], group: str | None, skipped: list[tuple[str, str]]
) -> None:
    """Raises SourceError for unprintable names, folders that are not classes or have no clips, and clips that share a
    name or lack a group. found: the class folders. wanted: the classes, empty for all."""
    folders = found | wanted
    empty = folders - {row["class"] for row in rows}
    names = [*sorted(empty), *(row["path"] for row in rows)]
    if bad := [printable(name) for name in names if name != printable(name)]:
        fault = f"names that are not UTF-8, or have characters that control a terminal: {listed(bad)}"
        raise SourceError(f"{clips}: {fault}; rename them (convmv does whole folders)")
    if unread := [f"{path} ({reason})" for path, reason in skipped if "/" not in path and reason in (LINK, UNREADABLE)]:
        raise SourceError(f"{clips}: {listed(unread)}; to leave a class out, name the others (fetch.classes)")
    if empty:
        way_out = "add clips, or remove the folder, or name the classes that you want (fetch.classes)"
        if (name := min(empty)) not in found:
            raise SourceError(f"{clips / name}: no such folder, but fetch.classes names it")
        raise SourceError(f"{clips / name}: no video in this class; {way_out}")
    if len(folders) < 2:
        at_top = [f"{path} ({reason})" for path, reason in skipped if "/" not in path]
        why = f"; skipped: {listed(at_top)}" if at_top else ""
        raise SourceError(f"{clips}: clips of at least two classes are needed, as <class>/<video>{why}")
    if {name.casefold() for name in folders} <= SUBSETS.keys():
        way_out = "move the clips into folders of classes; or keep this split, with a table of clips"
        raise SourceError(f"{clips}: {listed(sorted(folders))} are subsets, not classes; {way_out}")
    first = {row["clip"]: row["path"] for row in reversed(rows)}
    if twins := [f"{first[row['clip']]} and {row['path']}" for row in rows if first[row["clip"]] != row["path"]]:
        way_out = "they differ only in suffix or form of accents; remove the copy, or rename one"
        raise SourceError(f"{clips}: {listed(twins)}: {way_out}")
    if broken := [row["path"] for row in rows if not (clips / row["path"]).exists()]:
        way_out = "bring their targets back (for the embedded clips: dvc pull data.dvc), or remove the links"
        raise SourceError(f"{clips}: links that lead nowhere: {listed(broken)}; {way_out}")
    if unmatched := [row["path"] for row in rows if not row["group"]]:
        raise SourceError(
            f"{clips}: `fetch.group`, {group}, does not match {listed(unmatched)}; change it, or rename the files"
        )


def group_of(name: str, pattern: str) -> str | None:
    match = re.search(nfc(pattern), nfc(name))
    return match and next(filter(None, match.groups() if match.re.groups else [match[0]]), None)


def printable(name: str) -> str:
    """The name on one line; undecodable bytes and control characters, which tables cannot hold, as \\udce9 and \\r."""
    return visible(name).replace("\n", r"\n")


def nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)
