"""What a number rests on: the clips, the versions, the commit."""

import hashlib
import subprocess
from importlib.metadata import version

import pandas as pd


def clips_sha256(split: pd.DataFrame) -> str:
    """One sha256 over the clips' own, in the order of their names."""
    clips = split.drop_duplicates("clip").sort_values("clip")
    lines = "".join(f"{row.sha256}  {row.clip}\n" for row in clips.itertuples())
    return hashlib.sha256(lines.encode()).hexdigest()


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "pytorchvideo", "pytorch-lightning", "av", "numpy")}


def commit() -> str | None:
    """The commit that is checked out; None outside of a repository, and where there is no git."""
    try:
        said = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return said.stdout.strip() or None if said.returncode == 0 else None
