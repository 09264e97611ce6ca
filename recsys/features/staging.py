"""The source log inside DuckDB: its rows numbered, its columns checked, its values in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.schema import Schema
from recsys.features.tables import ROW, DataError, SourceTable, fetch_row, fetch_table, quote
from recsys.features.validation import (
    Column,
    id_column,
    is_string,
    no_nulls,
    number_column,
    run_checks,
    time_column,
)
from recsys.features.vocabulary import Vocabulary

_NUMBERS: dict[str, tuple[str, ...]] = {
    "weight": (),
    "propensity": (
        "FLOAT",
        "{value} <= 0 OR {value} > 1",
        "is no propensity",
        "A propensity is a probability above 0 and at most 1",
    ),
    "position": (
        "INTEGER",
        "{value} < 0 OR {value} <> floor({value}) OR {value} >= 2147483648",
        "is no position",
        "Positions are whole numbers from 0",
    ),
}
"""Numeric columns: their type, what makes a value bad (SQL), the problem and the remedy."""

_IS_INTEGER = "CAST(try_cast({value} AS BIGINT) AS VARCHAR) = {value}"
"""True for text that is an integer and nothing else: `007` is a string."""


@dataclass(frozen=True)
class Staged:
    """The relation `staged` of a connection.

    Attributes:
        connection: holds it; beside the columns it has `ROW`, the place of the row in the source.
        columns: canonical name -> column; `sort_key` is the schema's order column.
        coded: names of the columns that become codes, `user_id` and `item_id` among them.
        rows: number of rows.
    """

    connection: duckdb.DuckDBPyConnection
    columns: Mapping[str, Column]
    coded: tuple[str, ...]
    rows: int

    def distinct(self, name: str) -> pd.Index:
        """The distinct values of a coded column, missing ones left out."""
        value = self.columns[name].value
        query = f"SELECT DISTINCT {value} AS value FROM staged WHERE value IS NOT NULL"
        return pd.Index(fetch_table(self.connection, query)["value"].to_pandas())

    def value_counts(self, name: str) -> tuple[pd.Index, NDArray[np.int64]]:
        """The distinct values of a coded column, missing ones left out, and the rows of each, `[n]` int64."""
        value = self.columns[name].value
        query = f"SELECT {value} AS value, count(*) AS rows FROM staged WHERE value IS NOT NULL GROUP BY 1"
        table = fetch_table(self.connection, query)
        return pd.Index(table["value"].to_pandas()), table["rows"].to_numpy()

    def counts(self, name: str, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """`[n + 1]` int64: the rows of each id of the vocabulary of a coded column; 0 for the padding."""
        values, rows = self.value_counts(name)
        counts = np.zeros(len(vocabulary) + 1, dtype=np.int64)
        counts[vocabulary.encode(values)] = rows
        return counts

    def scaling(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a numeric column; a constant column has deviation 1."""
        value = self.columns[name].value
        mean, deviation = fetch_row(self.connection, f"SELECT avg({value}), stddev_pop({value}) FROM staged")
        return float(mean), float(deviation) or 1.0


def stage_events(connection: duckdb.DuckDBPyConnection, source: SourceTable, schema: Schema) -> Staged:
    """Makes the columns the schema names known as `staged` and checks them.

    Raises:
        DataError: the log is empty or a column is missing, of the wrong type, or holds a value that cannot be used.
    """
    events = schema.events
    names = {"user_id": events.user_id, "item_id": events.item_id, "timestamp": events.timestamp}
    if events.order is not None:
        names["sort_key"] = events.order
    names |= events.optional()
    keys = {name: f"events.{'order' if name == 'sort_key' else name}" for name in names}
    for feature in schema.of("event"):
        names[feature.name], keys[feature.name] = feature.column, f"features.{feature.name}.column"
    types = source.attach(connection)
    source.require([(keys[name], column) for name, column in names.items()], types)

    selected = ", ".join([*(f"{quote(column)} AS {quote(name)}" for name, column in names.items()), ROW])
    # Text is parsed once; Parquet and frames are cheaper to scan again than to copy.
    kind_of_copy = "TABLE" if source.is_text else "VIEW"
    try:
        connection.execute(f"CREATE TEMP {kind_of_copy} staged AS SELECT {selected} FROM {source.role}")
        (rows,) = fetch_row(connection, "SELECT count(*) FROM staged")
        if rows == 0:
            raise DataError(f"{source.label}: the log is empty. Give a log with at least one event")
        numeric = {*_NUMBERS, *(feature.name for feature in schema.of("event") if feature.type == "numeric")}
        columns = {
            name: _column(connection, source, name, column, types[column], schema, name in numeric)
            for name, column in names.items()
        }
        run_checks(connection, "staged", source, [check for column in columns.values() for check in column.checks])
    except duckdb.Error as error:
        raise source.unreadable(error) from None
    coded = tuple(name for name in names if name not in numeric | {"timestamp", "sort_key"})
    return Staged(connection, columns, coded, rows)


def _column(
    connection: duckdb.DuckDBPyConnection,
    source: SourceTable,
    name: str,
    column: str,
    kind: str,
    schema: Schema,
    numeric: bool,
) -> Column:
    """How a staged column is read and what is checked."""
    if name == "timestamp":
        return time_column(quote(name), column, kind, source.label, schema.events.timestamp_unit)
    if name == "sort_key":
        return _sort_key(connection, column, source.is_text)
    if numeric:
        return number_column(quote(name), column, kind, source.label, *_NUMBERS.get(name, ()))
    if name == "query":
        return _query_column(connection, source, column, kind, schema)
    integers = source.is_text and _holds(connection, name, _IS_INTEGER)
    required = name in ("user_id", "item_id")
    return id_column(quote(name), column, kind, source.label, integers, required)


def _query_column(
    connection: duckdb.DuckDBPyConnection, source: SourceTable, column: str, kind: str, schema: Schema
) -> Column:
    """The queries: an empty text is no query; where features read their words, they are text."""
    reading = schema.of("query")
    if is_string(kind):
        integers = source.is_text and not reading and _holds(connection, "query", _IS_INTEGER)
        staged = id_column("query", column, kind, source.label, integers, required=False)
        return staged if integers else replace(staged, value=f"nullif({staged.value}, '')")
    if reading:
        raise DataError(
            f"{source.label}: column `{column}` has type {kind}; feature `{reading[0].name}` reads the words of "
            "queries. Give the column that holds their text, or leave out the feature"
        )
    return id_column("query", column, kind, source.label, required=False)


def _holds(connection: duckdb.DuckDBPyConnection, name: str, condition: str) -> bool:
    """True when every value of a staged column that is there meets `condition` (SQL over `{value}`)."""
    met = f"bool_and(coalesce({condition.format(value=quote(name))}, false))"
    return bool(fetch_row(connection, f"SELECT {met} FROM staged WHERE {quote(name)} IS NOT NULL")[0])


def _sort_key(connection: duckdb.DuckDBPyConnection, source: str, is_text: bool) -> Column:
    """The schema's order column; numbers of a file without types sort as numbers."""
    value = "sort_key"
    if is_text and _holds(connection, "sort_key", "try_cast({value} AS DOUBLE) IS NOT NULL"):
        whole = _holds(connection, "sort_key", "try_cast({value} AS BIGINT) IS NOT NULL")
        value = f"CAST(sort_key AS {'BIGINT' if whole else 'DOUBLE'})"
    return Column(source, value, (no_nulls("sort_key", source, "Fill the gaps; the column orders events"),))
