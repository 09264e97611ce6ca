"""MLflow stores for tests. Making their tables takes MLflow seconds, so a process makes them once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from recsys.tracking.mlflow_store import open_client

NAME = "mlflow.db"


def empty_store(folder: Path) -> str:
    """The URI of a store without runs, in a folder."""
    path = folder / NAME
    shutil.copyfile(_template(), path)
    return f"sqlite:///{path}"


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="recsys-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    open_client(f"sqlite:///{folder / NAME}").search_experiments()
    return folder / NAME
