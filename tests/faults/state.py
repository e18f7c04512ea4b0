"""What a study has on disk and in MLflow, to compare before and after a fault."""

import hashlib
from pathlib import Path

from mlflow.tracking import MlflowClient


def digests(study: Path, outs: list[str]) -> dict[str, str | None]:
    """One sha256 for every output, a folder's over the names and contents of its files; None where there is none."""
    return {out: digest(study / out) for out in outs}


def digest(path: Path) -> str | None:
    if not path.exists():
        return None
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def left_behind(study: Path) -> list[str]:
    """Whatever looks half-written, or moved out of the way."""
    found = [*study.glob("work/**/*partial*"), *study.glob("paper/*partial*"), *study.glob("work/.*")]
    return sorted({str(path.relative_to(study)) for path in found})


def unfinished_runs(study: Path) -> list[str]:
    """The names of the runs that MLflow believes to be running."""
    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    places = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_name for run in client.search_runs(places, "attributes.status = 'RUNNING'", max_results=5000)]
