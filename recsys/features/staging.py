"""The source log inside DuckDB: its rows numbered, its columns checked, its values in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pandas as pd

from recsys.features.schema import Schema
from recsys.features.tables import DataError, SourceTable, quote
from recsys.features.validation import (
    Column,
    id_column,
    is_string,
    no_nulls,
    number_column,
    run_checks,
    time_column,
)

_NUMBERS = {
    "weight": ("", "", ""),
    "propensity": (
        "{value} <= 0 OR {value} > 1",
        "is no propensity",
        "A propensity is a probability above 0 and at most 1",
    ),
    "position": (
        "{value} < 0 OR {value} <> floor({value}) OR {value} >= 2147483648",
        "is no position",
        "Positions are whole numbers from 0",
    ),
}
"""Numeric columns: what makes a value bad (SQL), the problem and the remedy."""


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
        found = self.connection.execute(f"SELECT DISTINCT {value} AS value FROM staged WHERE value IS NOT NULL")
        return pd.Index(found.to_arrow_table()["value"].to_pandas())

    def scaling(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a numeric column; a constant column has deviation 1."""
        value = self.columns[name].value
        query = f"SELECT avg({value}), stddev_pop({value}) FROM staged"
        mean, deviation = self.connection.execute(query).fetchone() or (0.0, 0.0)
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
    (rows,) = connection.execute("SELECT count(*) FROM staged").fetchone() or (0,)
    if rows == 0:
        raise DataError(f"{source.label}: the log is empty. Give a log with at least one event")

    features = {feature.name: feature for feature in schema.of("event")}
    columns: dict[str, Column] = {}
    for name, column in names.items():
        kind, where = types[column], source.label
        if name == "timestamp":
            columns[name] = time_column(name, column, kind, where, events.timestamp_unit)
        elif name == "sort_key":
            columns[name] = _sort_key(connection, column, kind, source.is_text)
        elif name in _NUMBERS:
            columns[name] = number_column(name, column, kind, where, *_NUMBERS[name])
        elif name in features and features[name].type == "numeric":
            columns[name] = number_column(quote(name), column, kind, where, "", "", "")
        else:
            text = source.is_text and _holds(connection, name, "CAST(try_cast({value} AS BIGINT) AS VARCHAR) = {value}")
            columns[name] = id_column(name, column, kind, where, text, required=name in ("user_id", "item_id"))
    run_checks(connection, "staged", source, [check for column in columns.values() for check in column.checks])
    uncoded = {"timestamp", "sort_key", *_NUMBERS, *(f.name for f in schema.of("event") if f.type == "numeric")}
    return Staged(connection, columns, tuple(name for name in names if name not in uncoded), rows)


def _holds(connection: duckdb.DuckDBPyConnection, name: str, condition: str) -> bool:
    """True when every value of a staged column that is there meets `condition` (SQL over `{value}`)."""
    query = f"SELECT bool_and(coalesce({condition.format(value=quote(name))}, false)) FROM staged"
    return bool((connection.execute(f"{query} WHERE {quote(name)} IS NOT NULL").fetchone() or (False,))[0])


def _sort_key(connection: duckdb.DuckDBPyConnection, source: str, kind: str, is_text: bool) -> Column:
    """The schema's order column; numbers that a file without types holds sort as numbers."""
    value = "sort_key"
    if is_text and is_string(kind):
        for number in ("BIGINT", "DOUBLE"):
            if _holds(connection, "sort_key", f"try_cast({{value}} AS {number}) IS NOT NULL"):
                value = f"CAST(sort_key AS {number})"
                break
    return Column(source, kind, value, (no_nulls("sort_key", source, "Fill the gaps; the column orders events"),))
