"""Raw values to the rows of a table and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

_STRINGS = pd.StringDtype(na_value=np.nan)


def as_values(values: ArrayLike | pd.Series | pd.Index) -> pd.Index:
    """Raw values as an index of int64 or of strings; missing values are allowed among strings only.

    Raises:
        TypeError: the values are neither integers nor strings.
    """
    index = pd.Index(values)  # type: ignore[arg-type]
    if pd.api.types.is_integer_dtype(index.dtype) and not index.hasnans:
        return index.astype(np.int64)
    if len(index) == 0:
        return index.astype(_STRINGS)
    if pd.api.types.is_string_dtype(index.dtype) or pd.api.types.infer_dtype(index, skipna=True) == "string":
        return index.astype(_STRINGS)
    raise TypeError(f"raw values must be integers or strings, not {index.dtype}")


def stable_hash(values: ArrayLike | pd.Series | pd.Index) -> NDArray[np.uint64]:
    """A 64-bit hash of every raw value, the same in every process and on every machine.

    Args:
        values: `[n]` integers or strings.
    """
    index = as_values(values)
    array: Any = index.to_numpy() if index.dtype == np.int64 else index.to_numpy(dtype=object)
    return pd.util.hash_array(array, categorize=True)


class Encoder(Protocol):
    """Turns raw values into the rows of one table; row 0 is padding."""

    @property
    def rows(self) -> int:
        """Rows of the table, the padding row included."""

    @property
    def first_bucket(self) -> int:
        """The first row that a hash chooses; the rows before it belong to one value each."""

    def encode(self, values: ArrayLike | pd.Series | pd.Index) -> NDArray[np.int64]:
        """`[n]` int64 rows of `[n]` raw values; 0 for a value that becomes nothing."""


@dataclass(frozen=True)
class HashBuckets:
    """A table of fixed size: a value's row is its hash.

    Example:
        >>> HashBuckets(8).rows
        9
    """

    buckets: int

    @property
    def rows(self) -> int:
        """Rows of the table, the padding row included."""
        return self.buckets + 1

    @property
    def first_bucket(self) -> int:
        """Row 1: all are chosen by hash."""
        return 1

    def encode(self, values: ArrayLike | pd.Series | pd.Index) -> NDArray[np.int64]:
        """`[n]` int64 in 1..buckets; 0 for a missing value."""
        index = as_values(values)
        rows = (stable_hash(index) % np.uint64(self.buckets)).astype(np.int64) + 1
        rows[index.isna()] = 0
        return rows


@dataclass(frozen=True)
class Vocabulary:
    """Distinct raw values in ascending order; the value at position `i` has the id `i + 1`.

    Ids depend on the set of values alone, never on the order of the rows that held them.

    Attributes:
        values: `[n]` distinct integers or strings, ascending (strings by code point).
        unknown_buckets: rows after the last id that share the values the vocabulary does not know;
            with 0 an unknown value becomes 0.

    Example:
        >>> words = Vocabulary.of(["b", "a", "b"])
        >>> words.encode(["a", "b", "c"]).tolist(), words.decode([2, 1]).tolist()
        ([1, 2, 0], ['b', 'a'])
    """

    values: pd.Index
    unknown_buckets: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_values(self.values))
        if not (self.values.is_unique and self.values.is_monotonic_increasing):
            raise ValueError("the values of a vocabulary must be distinct and ascending; build one by `Vocabulary.of`")

    @classmethod
    def of(cls, values: ArrayLike | pd.Series | pd.Index, unknown_buckets: int = 0) -> Vocabulary:
        """The vocabulary of the distinct values among `values`; missing ones are left out."""
        return cls(as_values(values).dropna().unique().sort_values(), unknown_buckets)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rows(self) -> int:
        """Rows of the table: padding, one per value, and the buckets of unknown values."""
        return 1 + len(self.values) + self.unknown_buckets

    @property
    def first_bucket(self) -> int:
        """The row after the last id."""
        return 1 + len(self.values)

    def encode(self, values: ArrayLike | pd.Series | pd.Index) -> NDArray[np.int64]:
        """The ids of raw values.

        Args:
            values: `[n]` integers or strings, of the vocabulary's own kind.

        Returns:
            `[n]` int64; an unknown value is 0, or one of the unknown buckets when there are any. A missing value is 0.

        Raises:
            TypeError: strings were given to a vocabulary of integers, or the other way round.
        """
        index = as_values(values)
        if len(index) and len(self) and index.dtype != self.values.dtype:
            raise TypeError(f"the vocabulary holds {self.values.dtype} values, these are {index.dtype}")
        ids = self.values.get_indexer(index).astype(np.int64) + 1
        if self.unknown_buckets:
            unknown = (ids == 0) & np.asarray(index.notna())
            hashed = stable_hash(index[unknown]) % np.uint64(self.unknown_buckets)
            ids[unknown] = hashed.astype(np.int64) + 1 + len(self)
        return ids

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[Any]:
        """The raw values of ids 1..n.

        Args:
            ids: integers of any shape.

        Returns:
            An array of the same shape: int64, or objects (`str`).

        Raises:
            IndexError: an id is outside 1..n; padding and unknown buckets have no raw value.
        """
        flat = np.asarray(ids, dtype=np.int64)
        if flat.size and (flat.min() < 1 or flat.max() > len(self)):
            raise IndexError(f"ids must lie in 1..{len(self)}; got {int(flat.min())}..{int(flat.max())}")
        return self.values.to_numpy()[flat - 1]

    def save(self, path: Path) -> None:
        """Writes one Parquet file."""
        table = pa.table({"value": pa.Array.from_pandas(self.values)})
        pq.write_table(table.replace_schema_metadata({"unknown_buckets": str(self.unknown_buckets)}), path)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Reads what `save` wrote."""
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        return cls(pd.Index(table["value"].to_pandas()), int(metadata[b"unknown_buckets"]))
