"""Side features that become numbers for good: standardised numbers, given vectors, embedded sentences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.features.raw_values import RawValues
from recsys.features.schema import Feature
from recsys.features.side_tables import SideTable
from recsys.features.tables import DataError

Embed = Callable[[Feature, pd.Index], NDArray[np.float16]]
"""Gives the embeddings `[n, dim]` of the `[n]` distinct texts of a sentence feature, n at least 1."""


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
        raise side.wrong_type(feature, kind, "lists of numbers (CSV holds none: write Parquet)")
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


def sentence_column(feature: Feature, side: SideTable, n: int, embed: Embed) -> tuple[NDArray[np.float16], int]:
    """The embeddings of a text as `[n + 1, dim]` float16; zeros where there is no row or no text.

    Args:
        feature: of type `sentence`.
        side: the table that has its text.
        n: number of entities.
        embed: the encoder; equal texts are embedded once.

    Returns:
        The embeddings, and the number of entities without one.

    Raises:
        DataError: the column holds no strings, or nothing but empty ones.
    """
    texts = RawValues.of(feature, side.ids, pc.utf8_trim_whitespace(side.texts(feature)))
    if not len(texts.distinct):
        raise DataError(
            f"{side.source.label}: feature `{feature.name}` (sentence) finds no text: every row of the log is empty. "
            "Fill the column or leave out the feature"
        )
    vectors = embed(feature, texts.distinct)
    out = np.zeros((n + 1, vectors.shape[1]), dtype=np.float16)
    out[texts.ids] = vectors[texts.at]
    return out, n - len(texts.ids)
