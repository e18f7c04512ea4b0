"""Errors, command lines, tables and files. No file is ever left half written."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import os
import re
import reprlib
import shutil
import sys
import textwrap
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # saves `framebudget --help` half a second
    import pandas as pd
    from pydantic import ValidationError

MANIFEST = {
    "clip": str, "path": str, "class": str, "group": str, "first": int, "frames": int, "fps": float, "sha256": str,
}  # fmt: skip
SPLIT = MANIFEST | {"label": int, "fold": int, "subset": str}
PREDICTIONS = {"seed": int, "clip": str, "group": str, "label": str, "prediction": str}
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # first characters of cells that spreadsheets would run, and the escape
MACHINE = {  # system errors that no code can prevent
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE,
    errno.ENFILE, errno.ENAMETOOLONG, errno.EPIPE, errno.ESTALE,
}  # fmt: skip
REMEDIES = {  # torch, SQLite and the system word the same fault differently, not always as an OSError
    r"No space left|disk is full|file write failed|unexpected pos": "the disk is full; make room",
    r"out of memory|allocate memory|bad_alloc":
        "out of memory; lower side_by_side, train.batch_size, input.crop, frames or workers (params.yaml)",
    r"DataLoader worker \(pid":
        "a process that reads clips was killed; if memory ran out, lower workers (params.yaml)",
    r"process pool": "a process that decodes clips was killed; if memory ran out, free some",
}  # fmt: skip
brief = reprlib.Repr()  # shortens values of any size in error messages
brief.maxstring = brief.maxother = 100
BUG = "error: this is a bug in Frame Budget; please report it with the traceback above"


class UserError(Exception):
    """An error that the user can fix. The message says what went wrong, where, and what to do."""


class Bug(Exception):
    """Errors of several trainings, at least one of which is a bug. The message has the tracebacks."""


def usage(doc: str) -> argparse.ArgumentParser:
    """A parser whose --help shows the first line of a module's docstring and its commands (`    $ …`) as examples."""
    title, _, rest = doc.partition("\n")
    commands = [line.strip() for line in rest.split("\n") if line.startswith("    $ ")]
    epilog = "\n  ".join(["examples:" if len(commands) > 1 else "example:", *commands])
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=title, epilog=epilog, formatter_class=raw)


def stage(main: Callable[[], None]) -> Callable[[], None]:
    """Print a UserError or a machine fault as one line and exit with 1. After Ctrl-C, exit with 130.

    Any other error is a bug and prints its traceback. With FRAMEBUDGET_DEBUG=1, every error does.
    """

    def run() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # tests replace the streams
                # a name that the terminal cannot show must not stop a study, and a log must be up to date
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
        try:
            main()
        except Exception as error:
            message = explanation(error)
            if message is None or os.environ.get("FRAMEBUDGET_DEBUG") == "1":
                traceback.print_exc()
            sys.exit(BUG if message is None else f"error: {visible(message)}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run


def end_with_parent() -> None:
    """End this process when its parent ends, even if the parent is killed."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def explanation(error: Exception) -> str | None:
    """The message for a UserError or a machine fault; None for a bug."""
    if isinstance(error, UserError):  # torch puts the traceback of a loader's process before the message
        return str(error).rpartition(f"\n{type(error).__module__}.{type(error).__name__}: ")[2].strip()
    if isinstance(error, Bug):
        return None
    text = "out of memory" if isinstance(error, MemoryError) else str(error)
    for pattern, remedy in REMEDIES.items():
        if re.search(pattern, text):
            cause = textwrap.shorten(text.strip().splitlines()[0], 200, placeholder=" …")  # CUDA lists all processes
            return f"{remedy}, and run the same command again ({cause})"
    return text if isinstance(error, OSError) and error.errno in MACHINE else None


def explain(error: ValidationError, prefix: str = "") -> str:
    """`train.lr: Input should be greater than 0 (found -1)`, one line per fault."""
    lines = []
    for fault in error.errors():
        key = (prefix + ".".join(map(str, fault["loc"]))).rstrip(".")
        if fault["type"] == "extra_forbidden":
            lines.append(f"{key}: unknown key")
        elif fault["type"] == "missing":  # the found value would be the whole section
            lines.append(f"{key}: missing")
        elif fault["type"] == "value_error":  # our own message, complete
            lines.append(f"{key}: {fault['ctx']['error']}".removeprefix(": "))
        else:
            lines.append(f"{key}: {fault['msg']} (found {brief.repr(fault['input'])})")
    return "\n".join(lines)


def read_csv(path: Path, columns: dict[str, type], made_by: str = "dvc repro") -> pd.DataFrame:
    """Read a table that `write_csv` wrote, with at least these columns. Names like NA and 01 stay strings.

    Raises UserError if the file or a column is missing, or a column holds another type or a number below 0. It names
    the command that makes the table.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=columns, keep_default_na=False)
        for name, kind in columns.items():
            if kind is str:
                table[name] = table[name].str.removeprefix("'")
            elif not table[name].between(0, sys.float_info.max).all():
                raise ValueError(f"impossible numbers in column {name}")
    except (FileNotFoundError, KeyError, ValueError, OverflowError) as error:
        fault = f"no column {error}" if isinstance(error, KeyError) else getattr(error, "strerror", str(error).strip())
        raise UserError(f"{path}: {fault}; make it again: {made_by}") from None
    return table


def read_yaml(path: Path) -> object:
    """Read a YAML file as DVC does (YAML 1.2). Raises UserError."""
    from ruamel.yaml import YAML

    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run from the top of the repository") from None
    except Exception as error:  # a tag on the wrong kind of value can raise any Python error
        raise UserError(f"{path} is not YAML: {error}") from None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It replaces `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)  # it may fill the disk
        raise
    partial.replace(path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into. It replaces `path` if the block succeeds.

    A killed process leaves the old folder, no folder, or the new one, never part of one.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "new").mkdir(parents=True)
    try:
        yield partial / "new"
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if path.exists():
        path.rename(partial / "old")
    (partial / "new").rename(path)
    shutil.rmtree(partial, ignore_errors=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all."""
    write_text(path, as_csv(table))


def as_csv(table: pd.DataFrame, header: bool = True) -> str:
    """Equal tables give equal bytes. Numbers have six digits. A ' escapes cells that a spreadsheet would run."""
    for name in table.columns[table.dtypes == "str"]:
        formula = table[name].str.startswith(FORMULA)
        if formula.any():
            table = table.assign(**{name: table[name].mask(formula, "'" + table[name])})
    return table.to_csv(index=False, header=header, float_format="%.6g", lineterminator="\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def redacted(url: str) -> str:
    """The URL with its password, if any, replaced by ***."""
    return re.sub(r"(://[^/@:]*:).*@", r"\1***@", url)  # to the last @: a password may contain / or @


def listed(names: Iterable[str], limit: int = 10) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def visible(text: str) -> str:
    """Escape control characters (\\x1b) and undecodable bytes (\\udce9), and keep line breaks."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else repr(c)[1:-1] for c in text)
