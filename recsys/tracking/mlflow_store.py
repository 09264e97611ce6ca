"""Where MLflow keeps runs: by default a SQLite file in the working folder, with the files of runs beside it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from recsys.tracking.redaction import without_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
# The environment wins: nothing is sent anywhere, a server that is down is given up on within seconds, not minutes, and
# files come and go without a bar for each.
# A logged model says itself what it requires: the `uv.lock` of whatever folder a process works in is none of it.
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}

_S3_ERRORS = {"botocore.exceptions": ("BotoCoreError", "ClientError"), "boto3.exceptions": ("Boto3Error",)}


class TrackingError(RuntimeError):
    """MLflow cannot be written to as it is set up; the message says what to change."""


def tracking_uri() -> str:
    """What `MLFLOW_TRACKING_URI` names, else `mlflow.db` in the working folder."""
    return os.environ.get(URI_VARIABLE) or f"sqlite:///{Path(DATABASE).absolute()}"


def quiet() -> None:
    """Imports MLflow so that it sends nothing anywhere and says what matters."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for logger in ("mlflow", "alembic"):  # after the import, which sets its own level
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # warns of each try, and the error says it all


def open_client(uri: str) -> MlflowClient:
    """A quiet client. A SQLite file that does not exist is made, which takes seconds.

    Raises:
        TrackingError: the store cannot be used.
    """
    quiet()
    from mlflow.tracking import MlflowClient

    with explained(uri):
        return MlflowClient(uri)


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment `name`, created where it does not exist.

    Args:
        client: from `open_client`.
        uri: what the client was opened with.
        name: of the experiment.

    Raises:
        TrackingError: the store cannot be reached, or the experiment cannot take files.
    """
    with explained(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            return client.create_experiment(name, artifact_location=artifact_location(uri, name))
    if found.lifecycle_stage == "deleted":
        raise TrackingError(f"experiment `{name}` is deleted in MLflow; restore it there, or name the job otherwise")
    if found.artifact_location.startswith("mlflow-artifacts:") and not uri.startswith("http"):
        raise TrackingError(
            f"the files of experiment `{name}` belong to the tracking server that made it; start the server and set "
            f"`{URI_VARIABLE}=http://...`, or name the job otherwise"
        )
    return found.experiment_id


def store_errors() -> tuple[type[Exception], ...]:
    """What a store that fails raises: MLflow, its database, the system, and the client of S3 where files lie there."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # A module that nobody has imported has raised nothing.
    of_s3 = [
        getattr(sys.modules[module], name)
        for module, names in _S3_ERRORS.items()
        if module in sys.modules
        for name in names
    ]
    return (MlflowException, SQLAlchemyError, OSError, *of_s3)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns what the store at `uri` refuses into a `TrackingError`."""
    try:
        yield
    except store_errors() as error:
        raise TrackingError(
            f"MLflow at {without_secrets(uri)} cannot be used: {error}; `recsys doctor` tests it, `{URI_VARIABLE}` "
            "names another, and `--job.track false` runs without"
        ) from error


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where the files of a new experiment go: `mlartifacts` beside a SQLite file; None leaves it to the server.

    Example:
        >>> artifact_location("sqlite:////home/me/mlflow.db", "my job")
        'file:///home/me/mlartifacts/my-job'
    """
    parts = urlsplit(uri)
    if parts.scheme != "sqlite" or not parts.path[1:]:
        return None
    folder = Path(parts.path[1:]).absolute().parent / ARTIFACTS / re.sub(r"[^\w.-]+", "-", experiment)
    return f"file://{quote(str(folder))}"
