"""Raw values of a feature, and the rows of a table that they become."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn, expand_ranges, offsets_of
from recsys.features.schema import Feature
from recsys.features.vocabulary import Encoder, as_values


@dataclass(frozen=True)
class RawValues:
    """Raw values of a feature, one after the other: `distinct[at[i]]` belongs to the entity `ids[i]` (ascending).

    Attributes:
        feature: whose values they are.
        ids: `[m]` int64 dense ids.
        at: `[m]` int64 places in `distinct`.
        distinct: the distinct values, in no order that matters.
        copies: `[n + 1]` int64, how often the source states each entity's values; None: once. A query stands in many
            events, and so does each distinct value of an event feature, which is an entity of its own here.
    """

    feature: Feature
    ids: NDArray[np.int64]
    at: NDArray[np.int64]
    distinct: pd.Index
    copies: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, feature: Feature, ids: NDArray[np.int64], values: pa.Array) -> RawValues:
        """The values that are there: missing ones and empty strings are left out.

        Args:
            feature: whose values they are.
            ids: `[m]` int64 dense ids, ascending.
            values: `[m]`.

        Raises:
            TypeError: the values are neither integers nor strings (nor booleans).
        """
        keep = pc.is_valid(values)
        if pa.types.is_null(values.type):
            values = values.cast(pa.string())
        elif pa.types.is_boolean(values.type):
            values = values.cast(pa.int64())
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            keep = pc.and_(keep, pc.not_equal(pc.fill_null(values, ""), ""))
        try:
            coded = values.filter(keep).dictionary_encode()
        except pa.ArrowNotImplementedError as error:
            raise TypeError(str(error)) from None
        at = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(feature, ids[keep.to_numpy(zero_copy_only=False)], at, as_values(coded.dictionary.to_pandas()))


def jagged_column(raw: RawValues, encoder: Encoder, n: int) -> tuple[JaggedColumn, int, int]:
    """The feature as rows 0..n of table rows.

    Args:
        raw: its raw values.
        encoder: of the table it feeds.
        n: number of entities.

    Returns:
        The column, the number of values dropped (unknown to the table), and the number cut by `max_values`.
    """
    codes = encoder.encode(raw.distinct)[raw.at]
    ids, kept = raw.ids[codes > 0], codes[codes > 0]
    lengths = np.bincount(ids, minlength=n + 1)
    rank = expand_ranges(np.zeros(n + 1, dtype=np.int64), lengths)
    within = rank < raw.feature.max_values
    cut = len(kept) - int(within.sum())
    lengths = np.minimum(lengths, raw.feature.max_values)
    return JaggedColumn(kept[within], offsets_of(lengths)), len(codes) - len(kept), cut
