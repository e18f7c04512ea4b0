"""The MLflow store: where it is, whether it answers, and what its errors mean."""

import contextlib
import logging
import os
import re
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from framebudget.console import UserError, redacted
from framebudget.repository import top

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports every table that it creates

SCHEMES = "http", "https", "sqlite", "postgresql", "mysql", "mssql"
SQLITE = "sqlite:///"
PATHS = {  # columns of MLflow's tables that hold where artifacts are
    "experiments": ["artifact_location"],
    "runs": ["artifact_uri"],
    "logged_models": ["artifact_location"],
    "model_versions": ["source", "storage_location"],
}
REFUSALS = (MlflowException, SQLAlchemyError)  # MLflow lets some database errors through
REMEDIES = {  # by words in the error
    "out-of-date database schema":
        "was made by another version of MLflow: use that one, move it away, or copy it and: mlflow db upgrade {uri}",
    "locked": "is held by another program: wait for it, or end it",
    "not a database": "is damaged: move it away to start a new one; work/ and DVC have everything the paper needs",
    "malformed": "is damaged: move it away to start a new one; work/ and DVC have everything the paper needs",
    "Invalid Host header": "rejects its address: start it with --allowed-hosts, or unset MLFLOW_TRACKING_URI",
    "database": "cannot be opened: check its path and permissions, or unset MLFLOW_TRACKING_URI",
    "": "does not answer: start it, or unset MLFLOW_TRACKING_URI to log to mlflow.db",
}  # fmt: skip

# Give up on a silent server after seconds, not after MLflow's minutes, because training waits for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


class StoreError(UserError):
    """The MLflow store does not answer, or cannot be used. The message says what to do."""


def refusal(error: Exception) -> StoreError:
    """What an error of the store means."""
    uri, text = tracking_uri(), str(getattr(error, "orig", error))  # SQLAlchemy's own message is a page long
    remedy = next(remedy for word, remedy in REMEDIES.items() if word in text)
    return StoreError(f"MLflow at {uri} {remedy} ({text})".replace("{uri}", uri).replace(uri, redacted(uri)))


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or `mlflow.db`. The path of a database begins at the top of the repository, for queued
    experiments too. Raises StoreError for a URI that MLflow would reject, or mistake for a folder of files."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if "://" not in given or given.split("://")[0].split("+")[0] not in SCHEMES:
        raise StoreError(
            f"MLFLOW_TRACKING_URI is {redacted(given)}; it must be a server, http://HOST:PORT, or a database, "
            f"{SQLITE}FILE or postgresql://…; to log to mlflow.db: unset MLFLOW_TRACKING_URI"
        )
    if not given.startswith(SQLITE):
        return given
    path = str(top() / unquote(given.removeprefix(SQLITE)))
    # MLflow takes % and ? in a path for parts of the URI, and would make a folder of the escaped name
    return SQLITE + (os.path.relpath(path) if {"%", "?"} & {*path} else path)


def database() -> Path | None:
    """The file of the store, if it is a file."""
    uri = tracking_uri()
    return Path(uri.removeprefix(SQLITE)).absolute() if uri.startswith(SQLITE) else None


def artifacts(file: Path) -> str:
    """The URI of the folder for pictures and models, beside a database."""
    return file.with_name("mlruns").as_uri()


def connect() -> MlflowClient:
    """A client of the store, which has answered. Creates a local one. Raises StoreError."""
    try:
        knock()
        mlflow.set_tracking_uri(tracking_uri())
        client = MlflowClient()
        client.search_experiments(max_results=1)
        if file := database():
            follow(file)
        return client
    except (*REFUSALS, sqlite3.Error, OSError, ValueError) as error:
        raise refusal(error) from None


def knock() -> None:
    """Raises OSError or ValueError if a database server does not answer. MLflow would wait for two minutes."""
    parts = urlsplit(tracking_uri())
    if parts.hostname and parts.port and parts.scheme not in ("http", "https"):
        socket.create_connection((parts.hostname, parts.port), timeout=3).close()


def follow(file: Path) -> None:
    """Let MLflow find artifacts beside the database: it stores where they were, and a repository may have been moved or
    copied."""
    now = artifacts(file)
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in places:
            folder = re.fullmatch(r"(?:file://)?(/.*/mlruns)", old)  # as this project makes it
            if folder and old != now and (file.with_name("mlruns").exists() or not Path(unquote(folder[1])).exists()):
                for table, columns in PATHS.items():
                    for column in columns:
                        moved = f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                        moved += f" WHERE substr({column} || '/', 1, ?) = ?"
                        connection.execute(moved, (now, len(old) + 1, len(old) + 1, f"{old}/"))


@contextlib.contextmanager
def tolerant(what: str) -> Iterator[None]:
    """Turn errors of MLflow into a warning, and continue. Other errors are raised as usual."""
    try:
        yield
    except (*REFUSALS, OSError, StoreError) as error:
        warn(f"did not take {what}; nothing in work/ is lost ({error})")


def warn(text: str) -> None:
    print(f"warning: MLflow at {redacted(tracking_uri())} {text}", file=sys.stderr)
