"""Side tables: the rows that say what is known of the items, users and queries of a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.features.schema import Entity, Feature, Schema
from recsys.features.staging import Staged
from recsys.features.tables import ROW, DataError, SourceTable, fetch_table, quote
from recsys.features.validation import is_string
from recsys.features.vocabulary import Vocabulary


@dataclass(frozen=True)
class SideTable:
    """A side table cut down to the entities of the log.

    Attributes:
        source: where it came from.
        connection: DuckDB, where the source is attached.
        ids: `[rows]` int64, the dense id of each row, ascending and distinct.
        places: `[rows]` int64, the place of each row in the source, as `SourceTable.locate` takes it.
        columns: the columns asked for, `[rows]` each.
        unused: rows of ids that have no event.
        copies: `[n + 1]` int64, how often the source states what each id has; None: once.
    """

    source: SourceTable
    connection: duckdb.DuckDBPyConnection
    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    columns: pa.Table
    unused: int
    copies: NDArray[np.int64] | None = None

    def wrong_type(self, feature: Feature, kind: pa.DataType, wanted: str) -> DataError:
        """The error of a column whose type does not fit its feature.

        Args:
            feature: reads the column.
            kind: type of the column.
            wanted: what the feature needs.
        """
        return DataError(
            f"{self.source.label}: column `{feature.column}` has type {kind}; feature `{feature.name}` "
            f"({feature.type}) needs {wanted}. Change the column or the feature's `type`"
        )

    def texts(self, feature: Feature) -> pa.Array:
        """The column of a feature that reads text, `[rows]` strings.

        Raises:
            DataError: the column holds something else.
        """
        column = plain(self.columns[feature.column])
        if pa.types.is_null(column.type):
            return column.cast(pa.string())
        if not is_text(column.type):
            raise self.wrong_type(feature, column.type, "text")
        return column


def read_side_table(
    connection: duckdb.DuckDBPyConnection, source: SourceTable, key: str, columns: Mapping[str, str], ids: Vocabulary
) -> SideTable:
    """Reads the rows of a side table whose id is in the log.

    Args:
        connection: DuckDB.
        source: the side table.
        key: the column of raw ids.
        columns: column -> the schema key that names it, for messages.
        ids: the ids of the log. Memory is that of the wanted columns.

    Raises:
        DataError: a column is missing, the key is of the wrong type, missing in a row, or not unique.
    """
    types = source.attach(connection)
    source.require([(f"{source.role[:-1]}_key", key), *((k, c) for c, k in columns.items())], types)
    integers = ids.values.dtype == np.int64
    if integers == is_string(types[key]) and not (integers and source.is_text):
        kinds = ("integers", "strings") if integers else ("strings", "integers")
        raise DataError(
            f"{source.label}: column `{key}` has type {types[key]}; the ids of the log are {kinds[0]}. "
            f"Write both as {kinds[0]} or both as strings"
        )
    raw_key = f"try_cast({quote(key)} AS BIGINT)" if integers else f"CAST({quote(key)} AS VARCHAR)"
    wanted = "".join(f", {quote(column)}" for column in columns)
    table = fetch_table(
        connection, f"SELECT {raw_key} AS _key, {quote(key)} IS NULL AS _missing, {ROW}{wanted} FROM {source.role}"
    )
    missing = np.flatnonzero(table["_missing"].to_numpy())
    if len(missing):
        file, row = source.locate(connection, table[ROW][int(missing[0])].as_py())
        raise DataError(f"{file}: column `{key}`, row {row} (from 0): the id is missing. Drop the row")
    keys = table["_key"].to_pandas()
    repeated = np.flatnonzero((keys.duplicated() & keys.notna()).to_numpy())
    if len(repeated):
        file, row = source.locate(connection, table[ROW][int(repeated[0])].as_py())
        raise DataError(
            f"{file}: column `{key}`, row {row} (from 0): the id {keys.iloc[repeated[0]]} stands in an earlier row "
            f"too ({len(repeated):,} such rows). Keep one row per id"
        )
    dense = np.zeros(len(keys), dtype=np.int64)
    known = keys.notna().to_numpy()
    if known.any():
        dense[known] = Vocabulary(ids.values).encode(keys[known].astype(ids.values.dtype))
    order = np.argsort(dense, kind="stable")[int((dense == 0).sum()) :]
    places = table[ROW].to_numpy()[order]
    kept = table.select(list(columns)).take(order)
    return SideTable(source, connection, dense[order], places, kept, int((dense == 0).sum()))


def query_table(staged: Staged, source: SourceTable, queries: Vocabulary) -> SideTable:
    """The queries of a log as a side table of their own: its one column, which has no name, is their text.

    Args:
        staged: the checked events.
        source: the log.
        queries: the codes of the queries.
    """
    places = np.arange(len(queries))
    column = pa.table({"": pa.Array.from_pandas(queries.values).cast(pa.string())})
    copies = staged.counts("query", queries)
    return SideTable(source, staged.connection, places + 1, places, column, 0, copies)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece, and without a dictionary."""
    whole = column.combine_chunks()
    return whole.cast(whole.type.value_type) if pa.types.is_dictionary(whole.type) else whole


def is_text(kind: pa.DataType) -> bool:
    """True for the types of strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def side_columns(schema: Schema, entity: Entity) -> dict[str, str]:
    """Columns that the schema wants of a side table -> the schema key that names each."""
    wanted = {feature.column: f"features.{feature.name}.column" for feature in schema.of(entity)}
    if entity == "item" and schema.title is not None:
        wanted |= {schema.title: "title"}
    return wanted
