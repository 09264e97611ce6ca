"""What the lists of a complete job hold, counted part by part."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.candidates.drift import CELLS, cells_of, quantile
from recsys.candidates.files import JobError
from recsys.candidates.manifest import Manifest
from recsys.features.tables import fetch_row, fetch_table

COLUMNS = ("user_id", "item_id", "rank", "score", "source", "model_version", "generated_at")
_BATCH_ROWS = 2**18


@dataclass(frozen=True)
class Summary:
    """The numbers of a complete job, read from its files and not from what its records say.

    Attributes:
        name: of the job.
        model_versions: that stand in the rows.
        k: items that each user was to get.
        expected_users: users of the manifest.
        expected_rows: rows of the manifest.
        users: different users.
        rows: of all lists.
        doubled_users: users who stand more than once among the users.
        mismatched_users: users whose list is not as long as it says beside them, or stands without them.
        nulls: empty values, by column.
        duplicates: rows that give a user an item again.
        broken_ranks: users whose ranks are not 1, 2, ... without gap.
        short_users: users with fewer than k items.
        unexplained: of these, users without a reason.
        reasons: short users, by reason.
        not_finite: scores that are NaN or infinite.
        catalogue: items of the model.
        items: rows that give each item, by raw id.
        scores: counts of scores by cell, `[CELLS]` for each source; see `recsys.candidates.drift`.
    """

    name: str
    model_versions: tuple[str, ...]
    k: int
    expected_users: int
    expected_rows: int
    users: int
    rows: int
    doubled_users: int
    mismatched_users: int
    nulls: Mapping[str, int]
    duplicates: int
    broken_ranks: int
    short_users: int
    unexplained: int
    reasons: Mapping[str, int]
    not_finite: int
    catalogue: int
    items: pd.Series
    scores: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, folder: Path, memory_gib: float = 1.0, threads: int = 1) -> Summary:
        """Counts a complete folder.

        Memory: one part at a time, a counter an item, and 1 MiB a source; what groups all users spills to the disk.

        Args:
            folder: of a job.
            memory_gib: of DuckDB.
            threads: of DuckDB.

        Raises:
            JobError: the folder is not complete, or a file cannot be read.
        """
        manifest = Manifest.read(folder)
        names = sorted(file for file in manifest.files if file.endswith(".parquet"))
        lists = [folder / name for name in names if "/" not in name]
        users = [folder / "users" / path.name for path in lists]
        with tempfile.TemporaryDirectory(prefix=".counting-", dir=folder.parent) as spill:
            config: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": f"{memory_gib}GiB",
                "threads": threads,
                "temp_directory": spill,
            }
            with duckdb.connect(":memory:", config=config) as connection:
                try:
                    counts = _of_parts(connection, lists, users)
                    counts |= _of_everything(connection, lists, users, manifest.k)
                except duckdb.Error as error:
                    raise JobError(f"{folder}: its lists cannot be counted: {error}") from None
        return cls(
            name=manifest.name,
            k=manifest.k,
            expected_users=manifest.users,
            expected_rows=manifest.rows,
            catalogue=manifest.counts["catalogue"],
            **counts,
            **_scores(lists),
        )

    def quantile(self, source: str, share: float) -> float:
        """A quantile of the scores of a source, to 0.4 %; NaN where it gave none."""
        return quantile(self.scores[source], share)


def _of_parts(connection: duckdb.DuckDBPyConnection, lists: Sequence[Path], users: Sequence[Path]) -> dict[str, Any]:
    """What concerns a user and the list, in whose part both stand."""
    names = ("mismatched_users", "duplicates", "broken_ranks")
    found = dict.fromkeys(names, 0)
    for part, its_users in zip(lists, users, strict=True):
        counts = fetch_row(
            connection,
            f"""
            WITH lists AS (
                SELECT user_id, count(*) AS n, count(*) - count(DISTINCT item_id) AS again,
                    min(rank) = 1 AND max(rank) = count(*) AND count(DISTINCT rank) = count(*) AS ranked
                FROM read_parquet({_literal([part])}) GROUP BY user_id
            ), users AS (SELECT user_id, items FROM read_parquet({_literal([its_users])}))
            SELECT
                count(*) FILTER (users.items IS DISTINCT FROM coalesce(n, 0)),
                coalesce(sum(again), 0),
                count(*) FILTER (n > 0 AND ranked IS NOT TRUE)
            FROM users FULL JOIN lists ON users.user_id = lists.user_id
            """,
        )
        for name, value in zip(names, counts, strict=True):
            found[name] += int(value)
    return found


def _of_everything(
    connection: duckdb.DuckDBPyConnection, lists: Sequence[Path], users: Sequence[Path], k: int
) -> dict[str, Any]:
    rows, people = f"read_parquet({_literal(lists)})", f"read_parquet({_literal(users)})"
    nulls = ", ".join(f"count(*) - count({name})" for name in COLUMNS)
    total, *empty = fetch_row(connection, f"SELECT count(*), {nulls} FROM {rows}")
    different, doubled = fetch_row(
        connection,
        f"SELECT count(*), count(*) FILTER (n > 1) FROM (SELECT count(*) AS n FROM {people} GROUP BY user_id)",
    )
    short = f"FROM {people} WHERE items < {k}"
    reasons = fetch_table(connection, f"SELECT reason, count(*) AS n {short} GROUP BY reason").to_pylist()
    of_items = fetch_table(
        connection, f"SELECT item_id, count(*) AS n FROM {rows} WHERE item_id IS NOT NULL GROUP BY item_id"
    ).to_pandas()
    versions = fetch_table(connection, f"SELECT DISTINCT model_version AS version FROM {rows} ORDER BY 1").to_pylist()
    return {
        "rows": int(total),
        "nulls": dict(zip(COLUMNS, map(int, empty), strict=True)),
        "users": int(different),
        "doubled_users": int(doubled),
        "short_users": sum(row["n"] for row in reasons),
        "unexplained": sum(row["n"] for row in reasons if row["reason"] is None),
        "reasons": {row["reason"]: row["n"] for row in reasons if row["reason"] is not None},
        "items": of_items.set_index("item_id")["n"].sort_index(),
        "model_versions": tuple(str(row["version"]) for row in versions),
    }


def _scores(lists: Sequence[Path]) -> dict[str, Any]:
    scores: dict[str, NDArray[np.int64]] = {}
    not_finite = 0
    for path in lists:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH_ROWS, columns=["source", "score"]):
            known = batch["score"].is_valid().to_numpy(zero_copy_only=False)
            values = batch["score"].to_numpy(zero_copy_only=False).astype(np.float32)
            finite = np.isfinite(values)
            not_finite += int((known & ~finite).sum())
            source = batch["source"].to_pandas().fillna("").to_numpy(dtype=str)
            for name in np.unique(source[finite]):
                cells = cells_of(values[finite & (source == name)])
                scores.setdefault(str(name), np.zeros(CELLS, dtype=np.int64))
                scores[str(name)] += np.bincount(cells, minlength=CELLS)
    return {"scores": scores, "not_finite": not_finite}


def _literal(paths: Sequence[Path]) -> str:
    quoted = ("'" + str(path).replace("'", "''") + "'" for path in paths)
    return f"[{', '.join(quoted)}]"
