"""What the search logs are made from: tables of a data set, and what their contents are called by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from recsys.features.datasets import load_dataset


class Source(NamedTuple):
    """Tables by name, and the SHA-256 of each."""

    tables: dict[str, pd.DataFrame]
    fingerprints: dict[str, str]


Read = Callable[[Path | None], Source]


def parquet(dataset: str, *names: str) -> Read:
    """Reads `<dataset>/<name>.parquet` under the folder of the data sets."""

    def read(root: Path | None) -> Source:
        if root is None:
            raise FileNotFoundError("where the data sets are is not known: give --source, or set RECSYS_DATA")
        files = {name: root / dataset / f"{name}.parquet" for name in names}
        for file in files.values():
            if not file.exists():
                raise FileNotFoundError(f"{file} is missing; --source (or RECSYS_DATA) names the folder above")
        return Source(
            {name: pd.read_parquet(file) for name, file in files.items()},
            {f"{dataset}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in files.values()},
        )

    return read


def movielens(root: Path | None) -> Source:
    """MovieLens-100K from wherever the package finds it."""
    found = load_dataset("movielens_100k", root)
    assert isinstance(found.events, pd.DataFrame) and isinstance(found.items, pd.DataFrame)
    tables = {"events": found.events, "items": found.items}
    return Source(tables, {f"movielens_100k/{name}": _fingerprint(table) for name, table in tables.items()})


def _fingerprint(table: pd.DataFrame) -> str:
    return hashlib.sha256(pd.util.hash_pandas_object(table.astype("string"), index=False).to_numpy()).hexdigest()
