"""The source log inside DuckDB: its rows numbered, its columns checked, its values in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pandas as pd

from recsys.features.schema import Schema
from recsys.features.tables import DataError, SourceTable, fetch_row, fetch_table, quote
from recsys.features.validation import (
    Column,
    id_column,
    no_nulls,
    number_column,
    run_checks,
    time_column,
)

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
    """The table `staged` of a connection.

    Attributes:
        connection: holds it; beside the columns it has `source_row`, the row's number in the source.
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

    def scaling(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a numeric column; a constant column has deviation 1."""
        value = self.columns[name].value
        mean, deviation = fetch_row(self.connection, f"SELECT avg({value}), stddev_pop({value}) FROM staged")
        return float(mean), float(deviation) or 1.0


def stage_events(connection: duckdb.DuckDBPyConnection, source: SourceTable, schema: Schema) -> Staged:
    """Copies the columns the schema names into the table `staged` and checks them.

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

    selected = ", ".join(f"{quote(column)} AS {quote(name)}" for name, column in names.items())
    try:
        connection.execute(
            f"CREATE TABLE staged AS SELECT {selected}, row_number() OVER () - 1 AS source_row FROM {source.role}"
        )
    except duckdb.Error as error:
        raise DataError(f"{source.label}: cannot be read: {error}") from None
    (rows,) = fetch_row(connection, "SELECT count(*) FROM staged")
    if rows == 0:
        raise DataError(f"{source.label}: the log is empty. Give a log with at least one event")

    numeric = {*_NUMBERS, *(feature.name for feature in schema.of("event") if feature.type == "numeric")}
    columns: dict[str, Column] = {}
    for name, column in names.items():
        kind, where, staged = types[column], source.label, quote(name)
        if name == "timestamp":
            columns[name] = time_column(staged, column, kind, where, events.timestamp_unit)
        elif name == "sort_key":
            columns[name] = _sort_key(connection, column, source.is_text)
        elif name in numeric:
            columns[name] = number_column(staged, column, kind, where, *_NUMBERS.get(name, ()))
        else:
            integers = source.is_text and _holds(connection, name, _IS_INTEGER)
            columns[name] = id_column(staged, column, kind, where, integers, required=name in ("user_id", "item_id"))
    run_checks(connection, "staged", source, [check for column in columns.values() for check in column.checks])
    coded = tuple(name for name in names if name not in numeric | {"timestamp", "sort_key"})
    return Staged(connection, columns, coded, rows)


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
