"""The git repository around the study, if there is one."""

import os
import subprocess
from pathlib import Path

from framebudget.console import UserError


def top() -> Path:
    """The top of the repository. Queued and `--temp` experiments run in copies of it, below .dvc/tmp/exps."""
    here = Path.cwd()
    return next((up.parent.parent.parent for up in here.parents if up.parts[-3:] == (".dvc", "tmp", "exps")), here)


def exposed(path: Path) -> list[str]:
    """Files at this path that `dvc exp run` would commit, and `dvc exp push` would publish: git neither tracks nor
    ignores them. Relative to the top. Empty outside of a repository."""
    return git("ls-files", "--others", "--exclude-standard", "-z", "--", str(path.absolute())).split("\0")[:-1]


def check_copy() -> None:
    """Raises UserError in an experiment's copy of a shallow clone: DVC would lose its result."""
    if top() != Path.cwd() and git("rev-parse", "--is-shallow-repository") == "true\n":
        raise UserError(
            f"{top()} is a shallow clone, and DVC loses the result of a queued or --temp experiment there; "
            "get the history first: git fetch --unshallow"
        )


def git(*arguments: str) -> str:
    """What git prints at the top of the repository; nothing if it fails, or is not installed."""
    try:
        return os.fsdecode(
            subprocess.run(["git", "-C", str(top()), *arguments], capture_output=True, check=True).stdout
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
