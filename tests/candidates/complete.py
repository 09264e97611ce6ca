"""Complete folders written by hand: two users in each part, rows as they are given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.candidates.job import MANIFEST, part_name
from recsys.candidates.manifest import Manifest
from recsys.models.artefact import file_sha256

Row = tuple[object, object, object, object, object]
"""User, item, rank, score, source."""
User = tuple[object, int, str | None]
"""User, number of items, reason."""


def complete(
    folder: Path,
    parts: Sequence[tuple[Sequence[User], Sequence[Row]]],
    k: int = 2,
    version: str = "1",
    catalogue: int = 10,
    **claims: int,
) -> Path:
    """Writes a folder; `claims` are what the manifest says of rows or users where that differs from what is there."""
    (folder / "users").mkdir(parents=True)
    files = {}
    for number, (users, rows) in enumerate(parts):
        lists = pd.DataFrame(rows, columns=["user_id", "item_id", "rank", "score", "source"])
        kinds = {"user_id": "string", "item_id": "string", "rank": "Int32", "score": "Float32", "source": "string"}
        table = pa.Table.from_pandas(lists.astype(kinds), preserve_index=False)
        if len(rows) and any(row[3] != row[3] for row in rows):  # pandas reads NaN as null
            table = table.set_column(3, "score", pa.array([row[3] for row in rows], pa.float32()))
        at = pa.array([datetime(2026, 1, 2, tzinfo=UTC)] * len(rows), pa.timestamp("us", "UTC"))
        table = table.append_column("model_version", pa.array([version] * len(rows), pa.string()))
        table = table.append_column("generated_at", at)
        people = pd.DataFrame(users, columns=["user_id", "items", "reason"])
        people = people.astype({"user_id": "string", "items": "int32", "reason": "string"})
        name = f"{part_name(number)}.parquet"
        pq.write_table(table, folder / name)
        people.to_parquet(folder / "users" / name)
        files |= {path: file_sha256(folder / path) for path in (name, f"users/{name}")}
    manifest = Manifest(
        name=folder.name,
        generated_at="2026-01-02T00:00:00+00:00",
        model_version=version,
        k=k,
        users=claims.get("users", sum(len(users) for users, _ in parts)),
        rows=claims.get("rows", sum(len(rows) for _, rows in parts)),
        parts=len(parts),
        counts={"catalogue": catalogue},
        files=files,
        identity={},
        config={},
        previous=None,
        seconds={},
        versions={},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


GOOD: list[tuple[list[User], list[Row]]] = [
    (
        [("a", 2, None), ("b", 1, "caps")],
        [("a", "x", 1, 3.0, "model"), ("a", "y", 2, 0.5, "popularity"), ("b", "x", 1, -1.0, "model")],
    ),
    ([("c", 2, None)], [("c", "z", 1, 2.0, "model"), ("c", "x", 2, 1.0, "model")]),
]
