"""How the stages speak to the user and to the disk."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # half a second that `framebudget --help` does not need
    import pandas as pd


MANIFEST = {"clip": str, "path": str, "class": str, "group": str, "frames": int, "fps": float, "sha256": str}
SPLIT = MANIFEST | {"label": int, "fold": int, "subset": str}
PREDICTIONS = {"seed": int, "clip": str, "group": str, "label": str, "prediction": str}
RUN = ("=", "+", "-", "@", "\t", "\r", "'")  # how a cell begins that a spreadsheet runs; and ', which says it shall not
WAYS_OUT = {  # of what torch, MLflow and the system say in several ways, and not always as an OSError
    r"No space left|disk is full|file write failed|unexpected pos": "the disk is full; make room",
    r"out of memory|allocate memory|bad_alloc": "memory ran out; lower train.batch_size, input.crop, frames or workers "
    "(params.yaml)",
    r"DataLoader worker|process pool": "a process that reads clips was killed; if memory ran out, lower workers "
    "(params.yaml)",
}


class UserError(Exception):
    """What a person can put right. The message says what went wrong, where, and what to do."""


def usage(doc: str) -> argparse.ArgumentParser:
    """A parser whose --help is the first line of a module's docstring and, as examples, its commands (`    $ …`)."""
    title, _, rest = doc.partition("\n")
    commands = [line.strip() for line in rest.split("\n") if line.startswith("    $ ")]
    return argparse.ArgumentParser(
        description=title,
        epilog="\n  ".join(["examples:" if len(commands) > 1 else "example:", *commands]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def stage(main: Callable[[], None]) -> Callable[[], None]:
    """Let main() end with the message of an error that the user can mend instead of a traceback."""

    @functools.wraps(main)
    def run() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError):  # a test's
                stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show must not end a study
        try:
            main()
        except (UserError, ValueError, OSError, FloatingPointError, RuntimeError, MemoryError) as error:
            said = way_out(error)
            if isinstance(error, RuntimeError) and not said:
                raise
            sys.exit(f"error: {visible(str(said or error))}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run


def way_out(error: BaseException) -> str | None:
    """What the user can do, if the machine and not the study is to blame."""
    text = "out of memory" if isinstance(error, MemoryError) else str(error)
    for pattern, said in WAYS_OUT.items():
        if re.search(pattern, text):
            return f"{said}, and run the same command again ({text.strip().splitlines()[0]})"
    return None


def read_csv(path: Path, columns: dict[str, type]) -> pd.DataFrame:
    """A table that `write_csv` wrote, with at least these columns. A class called NA stays one, a group 01 stays 01.

    Raises ValueError if a column is missing, or holds something else than its type, or a number below 0.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=columns, keep_default_na=False)
        for name, kind in columns.items():
            if kind is str:
                table[name] = table[name].str.removeprefix("'")
            elif not table[name].between(0, sys.float_info.max).all():
                raise ValueError(f"impossible numbers in column {name}")
    except KeyError as error:
        raise ValueError(f"{path}: no column {error}; make it again: dvc repro") from None
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {str(error).strip()}; make it again: dvc repro") from None
    return table


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `path` when all went well.

    Whoever is killed on the way leaves the old folder, or none, or the new one; never a part of one.
    """
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old.partial")
    for left in (partial, old):
        remove(left)
    partial.mkdir(parents=True)
    yield partial
    if path.exists():
        path.rename(old)
    partial.rename(path)
    remove(old)


def remove(path: Path) -> None:
    """A folder with all that is in it, or a link or file, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Whole or not at all; the same table gives the same bytes. Text that a spreadsheet would run has a ' before it."""
    for name in table.columns[table.dtypes == "str"]:
        run = table[name].str.startswith(RUN)
        if run.any():
            table = table.assign(**{name: table[name].mask(run, "'" + table[name])})
    write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(url: str) -> str:
    """Without a password that it may hold."""
    return re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", url)


def visible(text: str) -> str:
    """What controls a terminal as \\x1b, what no encoding has as \\udce9; lines stay lines."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else repr(c)[1:-1] for c in text)
