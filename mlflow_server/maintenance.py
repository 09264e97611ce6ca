"""What the scripts that look after a server share: its database, its files, and that one of them runs at a time."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

STORE, FILES = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"


def variable(name: str) -> str:
    """A variable of the environment that must be set."""
    if not os.environ.get(name):
        sys.exit(f"{name} is not set; server.env.example lists what the environment says")
    return os.environ[name]


def database() -> str:
    """The address of the database as PostgreSQL's own tools read it."""
    return re.sub(r"^postgresql(\+\w+)?:", "postgresql:", variable(STORE))


def files() -> ArtifactRepository:
    """The bucket or folder of the server's files."""
    return get_artifact_repository(variable(FILES))


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def alone() -> Iterator[psycopg.Connection]:
    """A connection to the database that at most one script has at a time: nothing is removed while it is saved."""
    with psycopg.connect(database(), autocommit=True) as connection:
        taken = connection.execute("SELECT pg_try_advisory_lock(hashtext('mlflow maintenance'))").fetchone()
        if taken != (True,):
            sys.exit("a backup, restore or retention is running on this database; wait until it has ended")
        yield connection
