"""Find the clips that a table lists, as annotations have them: a row for each clip, or each stretch of a video.

    path,class,group,subset,start,end
    day1/kitchen.mp4,pour,anna,train,12.5,15.0

path and class are needed. group, subset (train, validation or test) and start, end (seconds) may be left out. Paths are
relative to the table. Columns are separated by commas, semicolons or tabs.
"""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from framebudget.console import listed
from framebudget.sources.folder import SUBSETS, SourceError, group_of, nfc, printable

NEEDED, OPTIONAL = ["path", "class"], ["group", "subset", "start", "end"]


def find_listed(
    table: Path, group: str | None, classes: list[str] | str = "all"
) -> tuple[list[dict], list[tuple[str, str]]]:
    """Rows of clip, path, class, group, start and end (seconds, or None), and subset if the table has it; and (what,
    reason) of everything that is not used.

    A clip is in the group that the table names; else in the one that the regular expression `group` finds in its path;
    else its video is the group. Raises SourceError, which names the lines at fault.
    """
    names, lines = read(table)
    unused = [name for name in names if name not in (*NEEDED, *OPTIONAL)]
    skipped = [(f"column {printable(name)}", "not a column of a table of clips") for name in unused]
    wanted = set() if classes == "all" else {nfc(name) for name in classes}
    faults, rows = [], {}
    for number, cells in lines.items():
        if wanted and nfc(cells["class"]) not in wanted:
            skipped.append((f"line {number}", "not among fetch.classes"))
            continue
        row = rows[number] = row_of(cells, group)
        faults += [f"line {number}: {fault}" for fault in faults_of(cells, row, table.parent)]
    faults += faults_between(rows)
    if faults:
        more = f"\nand {len(faults) - 10} more" if len(faults) > 10 else ""
        raise SourceError(f"{table}:\n" + "\n".join(faults[:10]) + more)
    if missing := wanted - {row["class"] for row in rows.values()}:
        raise SourceError(f"{table}: no clip of {listed(sorted(missing))}, but fetch.classes names it")
    if not any(row.get("subset") for row in rows.values()):
        for row in rows.values():  # an empty column, if there is one
            row.pop("subset", None)
    if len({row["class"] for row in rows.values()}) < 2:
        raise SourceError(f"{table}: clips of at least two classes are needed; add rows of another class")
    return list(rows.values()), skipped


def read(table: Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    """The names of the columns, and the stripped cells of each line by its number. Raises SourceError."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{table}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SourceError(f"{table}: not UTF-8; save it as CSV UTF-8") from None
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names = [name.strip() for name in next(reader, [])]
    if missing := [name for name in NEEDED if name not in names]:
        raise SourceError(f"{table}: no column {' and no column '.join(missing)}; there are {', '.join(names)}")
    lines = {}
    try:
        for cells in filter(None, reader):
            if len(cells) != len(names):
                raise SourceError(f"{table}:\nline {reader.line_num}: {len(cells)} cells, but {len(names)} columns")
            lines[reader.line_num] = {name: cell.strip() for name, cell in zip(names, cells, strict=True)}
    except csv.Error as error:
        raise SourceError(f'{table}:\nline {reader.line_num}: {error}; perhaps a " is not closed') from None
    return names, lines


def row_of(cells: dict[str, str], group: str | None) -> dict:
    path = PurePosixPath(cells["path"].replace("\\", "/"))
    start, end = (seconds(cells.get(name, "")) for name in ("start", "end"))
    whole = nfc(str(path.with_suffix(""))) if path.name else ""
    clip = whole if start is None and end is None else f"{whole}@{cells.get('start') or 0}-{cells.get('end') or ''}"
    found = cells.get("group") or (group_of(str(path), group) if group else whole)
    row = {"clip": clip, "path": str(path), "class": nfc(cells["class"]), "group": found and nfc(found)}
    row |= {"start": start, "end": end}
    return row | {"subset": SUBSETS.get(cells["subset"].casefold(), "")} if "subset" in cells else row


def seconds(cell: str) -> float | None:
    """NaN if it is not a finite number."""
    try:
        found = float(cell) if cell else None
    except ValueError:
        return math.nan
    return found if found is None or math.isfinite(found) else math.nan


def faults_of(cells: dict[str, str], row: dict, folder: Path) -> Iterator[str]:
    path = PurePosixPath(row["path"])
    if not cells["path"]:
        yield "path is empty"
    elif path.is_absolute() or ".." in path.parts:
        yield f"{row['path']} is not below the folder of the table"
    elif not (folder / path).is_file():
        yield f"{printable(row['path'])}: no such file"
    if not row["class"]:
        yield "class is empty"
    if any(printable(str(row[name])) != row[name] for name in ("clip", "class", "group") if row[name]):
        yield "clip, class or group has characters that control a terminal"
    if not row["group"]:
        yield "fetch.group does not match this path"
    if cells.get("subset") and not row["subset"]:
        yield f"subset is {cells['subset']}; it must be train, validation or test"
    start, end = row["start"] or 0.0, row["end"]
    if not start >= 0 or (end is not None and not end > start):
        yield f"start and end are {cells.get('start')} and {cells.get('end')}; they must be seconds, end after start"


def faults_between(rows: dict[int, dict]) -> Iterator[str]:
    first: dict[str, int] = {}
    given = {number for number, row in rows.items() if row.get("subset")}
    for number, row in rows.items():
        if first.setdefault(row["clip"], number) != number:
            other = rows[first[row["clip"]]]["path"]
            but = "" if other == row["path"] else ", but for its suffix or form of accents"
            same = "name" if but else "clip"
            yield f"line {number}: the same {same} as line {first[row['clip']]}{but}"
        if given and number not in given:
            yield f"line {number}: no subset, but other lines have one"


def stretch(start: float | None, end: float | None, path: str, frames: int, fps: float) -> tuple[int, int]:
    """The first frame of a clip from `start` to `end`, and how many it has. frames, fps: of its video.

    The end may lie up to a second beyond that of the video. Raises SourceError.
    """
    first, last = round((start or 0) * fps), frames if end is None else round(end * fps)
    if first >= frames or last > frames + fps:
        what = f"a clip from {start or 0:g} to {end or frames / fps:g} s is listed"
        ends = f"the video ends after {frames / fps:.2f} s"
        raise SourceError(f"{path}: {what}, but {ends}; correct start or end in the table")
    return first, max(1, min(last, frames) - first)
