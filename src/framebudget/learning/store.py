"""The MLflow store: where it is, and what to do if it does not answer."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from framebudget.console import UserError, redacted
from framebudget.params import top

REFUSALS = (MlflowException, SQLAlchemyError)  # MLflow lets some of its database's pass as they are

# A server that does not answer is given up after seconds, not MLflow's minutes: a training waits for it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


class StoreError(UserError):
    """The MLflow store does not answer, or cannot be used; the message says what to do."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or `mlflow.db` at the top of the repository, for queued experiments too."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{top() / 'mlflow.db'}"


def knock(uri: str) -> None:
    """Raises StoreError if a database does not answer; MLflow would wait for two minutes."""
    try:
        parts = urlsplit(uri)
        if parts.hostname and parts.port and parts.scheme not in ("http", "https"):
            socket.create_connection((parts.hostname, parts.port), timeout=3).close()
    except (OSError, ValueError) as error:
        raise StoreError(refused(uri, error)) from None


def refused(uri: str, error: Exception) -> str:
    """What is wrong with the store, and the way out."""
    text = str(getattr(error, "orig", error))  # SQLAlchemy's own is a page
    if "out-of-date database schema" in text:
        what = (
            f"is of another version of MLflow: use that one, or move it away, or copy it and: mlflow db upgrade {uri}"
        )
    elif "locked" in text:
        what = "is held by another program: wait for it, or end it"
    elif "not a database" in text or "malformed" in text:
        what = "is damaged: move it away, and a new one begins; work/ and DVC have all that the paper needs"
    elif uri.startswith("sqlite:"):
        what = "cannot be used"
    else:
        what = "does not answer: start it, or unset MLFLOW_TRACKING_URI to log to mlflow.db"
    return f"MLflow at {redacted(uri)} {what} ({text})".replace(uri, redacted(uri))


@contextlib.contextmanager
def tolerant(what: str) -> Iterator[None]:
    """Continue, with a warning, if MLflow does not take something; everything else fails as usual."""
    try:
        yield
    except (*REFUSALS, OSError, StoreError) as error:
        warn(f"does not take {what}; work/ has it ({error})")


def warn(text: str) -> None:
    print(f"warning: MLflow at {redacted(tracking_uri())} {text}", file=sys.stderr)
