"""Rows of unequal length: one flat array of values and where each row begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def expand_ranges(start: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices of many ranges, one after the other, without a loop.

    Args:
        start: `[n]` first index of each range.
        lengths: `[n]` number of indices of each range, zero allowed.

    Returns:
        `[lengths.sum()]` int64.

    Example:
        >>> expand_ranges(np.array([10, 20, 30]), np.array([2, 0, 3])).tolist()
        [10, 11, 30, 31, 32]
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    shift = np.asarray(start, dtype=np.int64) - (np.cumsum(lengths) - lengths)
    return np.arange(int(lengths.sum()), dtype=np.int64) + np.repeat(shift, lengths)


def offsets_of(lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """`[n + 1]` int64 offsets of rows with `[n]` lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class JaggedColumn:
    """A column whose rows hold any number of values.

    Attributes:
        values: `[total]` int64, the rows one after the other.
        offsets: `[rows + 1]` int64; row `i` is `values[offsets[i]:offsets[i + 1]]`. A column over entities with ids
            0..n has n + 1 rows (row 0, the padding, is empty), so `n + 2` offsets.

    Example:
        >>> column = JaggedColumn.from_lists([[], [3, 1], [2]])
        >>> column.row(1).tolist(), column.gather(np.array([2, 1])).values.tolist()
        ([3, 1], [2, 3, 1])
    """

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[rows]` number of values of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int64]:
        """The values of one row."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def gather(self, rows: NDArray[np.int64]) -> JaggedColumn:
        """The given rows, in their order, repeats allowed.

        Args:
            rows: `[n]` row numbers.
        """
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        return JaggedColumn(self.values[expand_ranges(self.offsets[rows], lengths)], offsets_of(lengths))

    @classmethod
    def from_lists(cls, rows: Sequence[Iterable[int]]) -> JaggedColumn:
        """Builds a column from Python lists (for tests and small tables)."""
        lists = [list(row) for row in rows]
        flat = np.array([value for row in lists for value in row], dtype=np.int64)
        return cls(flat, offsets_of(np.array([len(row) for row in lists], dtype=np.int64)))
