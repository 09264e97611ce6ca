"""Who gets a list, in the order of the parts, and the items that single users may or may not get."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.candidates.config import listed
from recsys.candidates.files import JobError, not_written, rename_durable
from recsys.features.event_log import EventLog
from recsys.features.tables import fetch_row, fetch_table

_SHOWN = 3
_FRACTIONS = ("DOUBLE", "FLOAT", "DECIMAL")
_WHOLE = r"-?[0-9]+(\.0+)?"
"""A whole number, however a table has written it; a cast alone would round others."""


def write_users(path: Path, log: EventLog, users: str | None, part_users: int) -> dict[str, int]:
    """Writes who gets a list, ascending by raw id, a row group for each part.

    Columns: `user_id`; `log_id` int64, 0 for a user without events; `query`, null for a user who does not search.

    Args:
        path: of the file.
        log: with the events.
        users: who gets a list, see `JobConfig`; None: everybody in the log.
        part_users: users of each part.

    Returns:
        Counts: `users`, `users_without_events`, `users_named_twice`, and `users_of_whom_nothing_is_known`, who have no
        events and no query.

    Raises:
        JobError: the list cannot be used, or the file cannot be written.
    """
    kind = pa.int64() if log.users.values.dtype == np.int64 else pa.string()
    schema = pa.schema([("user_id", kind), ("log_id", pa.int64()), ("query", pa.string())])
    names = ("users", "users_without_events", "users_named_twice", "users_of_whom_nothing_is_known")
    counts = dict.fromkeys(names, 0)
    unfinished = path.with_name(f".{path.name}")
    parts = _everybody(log, part_users, kind) if users is None else _named(log, users, part_users, counts, path.parent)
    try:
        with pq.ParquetWriter(unfinished, schema) as writer:
            for part in parts:
                writer.write_table(part.cast(schema), row_group_size=part_users)
                counts["users"] += len(part)
                without = part["log_id"].to_numpy() == 0
                counts["users_without_events"] += int(without.sum())
                counts["users_of_whom_nothing_is_known"] += int((without & part["query"].is_null().to_numpy()).sum())
        rename_durable(unfinished, path)
    except OSError as error:
        raise not_written(path, error) from error
    return counts


def write_pairs(path: Path, source: str, option: str, users: Path, part_users: int) -> dict[str, int]:
    """Writes the items of a list of users, by part: columns `part`, `row` (of the user in the part) and `item`.

    DuckDB sorts, and spills beside the file.

    Args:
        path: of the file.
        source: Parquet with columns `user_id` and `item_id`.
        option: what names the list, for messages.
        users: what `write_users` has written.
        part_users: users of each part.

    Returns:
        Counts: `pairs` that were kept, and `pairs_of_others`, whose user gets no list.

    Raises:
        JobError: the list cannot be used, or the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}")
    with _connection(path.parent) as connection:
        columns = _attach(connection, "pairs", source, option)
        for name in ("user_id", "item_id"):
            if name not in columns:
                raise JobError(f"{option}: {source} has no column `{name}`, but {', '.join(columns)}")
            if columns[name].startswith(_FRACTIONS):
                raise JobError(
                    f"{option}: {source}: `{name}` holds numbers with fractions ({columns[name]}), which are no ids; "
                    "write integers or strings"
                )
        connection.execute(
            f"CREATE TEMP VIEW users AS SELECT CAST(user_id AS VARCHAR) AS name, file_row_number AS place "
            f"FROM read_parquet({_literal(str(users))}, file_row_number = true)"
        )
        query = (
            f"SELECT place // {part_users} AS part, place % {part_users} AS row, CAST(item_id AS VARCHAR) AS item "
            "FROM pairs JOIN users ON CAST(user_id AS VARCHAR) = name"
        )
        try:
            (total, empty) = fetch_row(
                connection, "SELECT count(*), count(*) FILTER (user_id IS NULL OR item_id IS NULL) FROM pairs"
            )
            if empty:
                raise JobError(f"{option}: {source}: {empty} rows lack a `user_id` or an `item_id`; fill or drop them")
            connection.execute(
                f"COPY (SELECT DISTINCT * FROM ({query}) ORDER BY ALL) TO {_literal(str(unfinished))} "
                "(FORMAT parquet, ROW_GROUP_SIZE 100000)"
            )
            (kept,) = fetch_row(connection, f"SELECT count(*) FROM ({query})")
        except duckdb.Error as error:
            raise JobError(f"{option}: {source} cannot be read, or {path} not written: {_first_line(error)}") from None
    try:
        rename_durable(unfinished, path)
    except OSError as error:
        raise not_written(path, error) from error
    return {"pairs": int(kept), "pairs_of_others": int(total) - int(kept)}


def _everybody(log: EventLog, part_users: int, kind: pa.DataType) -> Iterator[pa.Table]:
    for first in range(0, log.n_users, part_users):
        ids = np.arange(first + 1, min(first + part_users, log.n_users) + 1)
        names = pa.array(log.users.values[first : first + part_users], kind)
        yield pa.table({"user_id": names, "log_id": ids, "query": pa.nulls(len(ids), pa.string())})


def _named(log: EventLog, users: str, part_users: int, counts: dict[str, int], spill: Path) -> Iterator[pa.Table]:
    """The users of a list, each once, with their ids in the log."""
    integers = log.users.values.dtype == np.int64
    with _connection(spill) as connection:
        columns = _attach(connection, "list", users, "--users")
        if "user_id" not in columns:
            raise JobError(f"--users: {users} has no column `user_id`, but {', '.join(columns)}")
        name = "CAST(user_id AS VARCHAR)"
        if integers:
            name = f"CASE WHEN regexp_full_match(trim({name}), '{_WHOLE}') THEN try_cast(user_id AS BIGINT) END"
        query = "nullif(trim(CAST(query AS VARCHAR)), '')" if "query" in columns else "CAST(NULL AS VARCHAR)"
        try:
            _check_names(connection, users, name, integers)
            connection.execute(
                f"CREATE TEMP TABLE named AS SELECT {name} AS user_id, min({query}) AS query, "
                f"count(*) AS copies, count(DISTINCT coalesce({query}, '')) AS asked FROM list GROUP BY 1"
            )
            wrong = connection.execute("SELECT user_id FROM named WHERE asked > 1 ORDER BY 1").fetchmany(_SHOWN)
            if wrong:
                raise JobError(
                    f"--users: {users} gives user {', '.join(f'`{user}`' for (user,) in wrong)} several queries; a "
                    "user gets one list: keep one row of each"
                )
            total, copies = fetch_row(connection, "SELECT count(*), sum(copies) - count(*) FROM named")
            if not total:
                raise JobError(f"--users: {users} names nobody")
            counts["users_named_twice"] = int(copies)
            connection.execute(
                "CREATE TEMP TABLE ordered AS SELECT row_number() OVER (ORDER BY user_id) - 1 AS place, user_id, query "
                "FROM named ORDER BY place"
            )
            for first in range(0, total, part_users):
                bounds = f"place >= {first} AND place < {first + part_users}"
                part = fetch_table(connection, f"SELECT user_id, query FROM ordered WHERE {bounds} ORDER BY place")
                ids = log.users.encode(part["user_id"].to_pandas())
                yield part.add_column(1, "log_id", pa.array(np.where(ids <= log.n_users, ids, 0)))
        except duckdb.Error as error:
            raise JobError(f"--users: {users} cannot be read: {_first_line(error)}") from None


def _check_names(connection: duckdb.DuckDBPyConnection, users: str, name: str, integers: bool) -> None:
    bad = f"SELECT count(*), min(CAST(user_id AS VARCHAR)) FROM list WHERE {name} IS NULL"
    count, example = fetch_row(connection, bad)
    if count and example is None:
        raise JobError(f"--users: {users}: {count} rows have no `user_id`; fill or drop them")
    if count and integers:
        raise JobError(f"--users: {users}: ids of users in the log are integers, and `{example}` is none")


def _attach(connection: duckdb.DuckDBPyConnection, name: str, source: str, option: str) -> dict[str, str]:
    """Makes a file known under a name; the types of its columns."""
    try:
        if source.startswith("@"):
            words = listed((source,), option)
            connection.register("words", pa.table({"user_id": pa.array(words, pa.string())}))
            reader = "words"
        elif not Path(source).is_file():
            raise JobError(f"{option}: {source}: no such file")
        elif Path(source).suffix in (".csv", ".tsv"):
            reader = f"read_csv({_literal(source)}, all_varchar = true, header = true)"
        else:
            reader = f"read_parquet({_literal(source)})"
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM {reader}")
        return {str(column): str(kind) for column, kind, *_ in connection.execute(f"DESCRIBE {name}").fetchall()}
    except duckdb.Error as error:
        raise JobError(f"{option}: {source} cannot be read: {_first_line(error)}") from None


def _connection(spill: Path) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"memory_limit": "1GB", "temp_directory": str(spill / "spill")})


def _first_line(error: duckdb.Error) -> str:
    """What is wrong, without the query that met it."""
    return str(error).splitlines()[0]


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
