"""Side features: from columns of a side table to jagged rows of table rows, numbers and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.features.raw_values import RawValues
from recsys.features.schema import Entity, Feature, Schema
from recsys.features.tables import ROW, DataError, SourceTable, fetch_table, quote
from recsys.features.text import text_values
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
    """

    source: SourceTable
    connection: duckdb.DuckDBPyConnection
    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    columns: pa.Table
    unused: int


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


def raw_values(feature: Feature, side: SideTable) -> RawValues:
    """The values of a categorical, categorical list or text column; missing ones are left out.

    Raises:
        DataError: the column's type does not fit the feature's.
    """
    column = side.columns[feature.column].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    strings = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if feature.type == "text":
        _require(feature, side, column, strings, "text")
        return text_values(feature, side.ids, column)
    ids = side.ids
    if feature.separator is not None:
        _require(feature, side, column, strings, f"text separated by `{feature.separator}`")
        column = pc.split_pattern(column, feature.separator)
    elif feature.type == "categorical_list":
        lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
        _require(feature, side, column, lists, "lists (or text, with `separator` set)")
    if feature.type == "categorical_list":
        ids = np.repeat(ids, pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False))
        column = pc.list_flatten(column)
    if feature.separator is not None:
        column = pc.utf8_trim_whitespace(column)
    try:
        return RawValues.of(feature, ids, column)
    except TypeError:
        raise _wrong_type(feature, side, column.type, "integers or strings") from None


def _require(feature: Feature, side: SideTable, column: pa.Array, fits: bool, wanted: str) -> None:
    if not fits and not pa.types.is_null(column.type):
        raise _wrong_type(feature, side, column.type, wanted)


def _wrong_type(feature: Feature, side: SideTable, kind: pa.DataType, wanted: str) -> DataError:
    return DataError(
        f"{side.source.label}: column `{feature.column}` has type {kind}; feature `{feature.name}` "
        f"({feature.type}) needs {wanted}. Change the column or the feature's `type`"
    )


def numeric_column(feature: Feature, side: SideTable, n: int) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """The feature as `[n + 1]` standardised float32, 0 where missing, and its mean and standard deviation.

    Raises:
        DataError: the column holds no numbers, or an infinite one.
    """
    column = side.columns[feature.column]
    try:
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{side.source.label}: column `{feature.column}`: feature `{feature.name}` needs numbers: {error}"
        ) from None
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise DataError(
            f"{side.source.label}: column `{feature.column}` is infinite in {len(infinite):,} rows. "
            "Clip these values or leave them empty"
        )
    present = ~np.isnan(values)
    mean = float(values[present].mean()) if present.any() else 0.0
    deviation = (float(values[present].std()) if present.any() else 0.0) or 1.0
    out = np.zeros(n + 1, dtype=np.float32)
    out[side.ids[present]] = (values[present] - mean) / deviation
    return out, (mean, deviation)


def vector_column(feature: Feature, side: SideTable, n: int) -> tuple[NDArray[np.float32], int]:
    """The feature as `[n + 1, dim]` float32, as given; zeros where there is no row or no value.

    Args:
        feature: of type `vector`.
        side: the table that has its column.
        n: number of entities. Memory is that of the result and of the column.

    Returns:
        The vectors, and the number of entities without one.

    Raises:
        DataError: the column holds no lists of numbers, no vector at all, vectors of different lengths, or a value
            that is missing or not finite in float32.
    """
    column = side.columns[feature.column].combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if not there.any():
        raise DataError(
            f"{side.source.label}: column `{feature.column}` is empty in every row of the log's {side.source.role}; "
            f"feature `{feature.name}` (vector) needs lists of numbers. Fill the column or leave out the feature"
        )
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))):
        raise _wrong_type(feature, side, kind, "lists of numbers (CSV holds none: write Parquet)")
    column, ids, places = column.drop_null(), side.ids[there], side.places[there]
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    first = int(places.argmin())
    dim = int(lengths[first])
    if dim == 0:
        raise _bad_vectors(feature, side, places[[first]], "the vector has no values")
    if (other := lengths != dim).any():
        file, row = side.source.locate(side.connection, int(places[first]))
        length = lengths[other][places[other].argmin()]
        problem = f"the vector has {length} values, and that of row {row} of {file} has {dim}"
        raise _bad_vectors(feature, side, places[other], problem)
    flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # found below
        vectors = flat.astype(np.float32).reshape(-1, dim)
    if (bad := ~np.isfinite(vectors).all(axis=1)).any():
        raise _bad_vectors(feature, side, places[bad], "the vector holds a missing, infinite or too large number")
    out = np.zeros((n + 1, dim), dtype=np.float32)
    out[ids] = vectors
    return out, n - len(ids)


def _bad_vectors(feature: Feature, side: SideTable, places: NDArray[np.int64], problem: str) -> DataError:
    """The error that names the first of the given places."""
    file, row = side.source.locate(side.connection, int(places.min()))
    others = f" ({len(places):,} such rows)" if len(places) > 1 else ""
    return DataError(
        f"{file}: column `{feature.column}`, row {row} (from 0): {problem}{others}. Feature `{feature.name}` needs "
        "finite vectors of one length; correct the row or leave its value empty (null), which counts as zeros"
    )


def side_columns(schema: Schema, entity: Entity) -> dict[str, str]:
    """Columns that the schema wants of a side table -> the schema key that names each."""
    wanted = {feature.column: f"features.{feature.name}.column" for feature in schema.of(entity)}
    if entity == "item" and schema.title is not None:
        wanted |= {schema.title: "title"}
    return wanted
