"""Partitions of the rows of a table: which row of each small table a row of the large one is made of.

Sources: Shi et al., "Compositional Embeddings Using Complementary Partitions", KDD 2020, section 3 (quotient and
remainder); Zhang et al., "Model Size Reduction Using Frequency Based Double Hashing", RecSys 2020 (two hashes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from recsys.features.embedding_table import Table
from recsys.features.schema import SchemaError


def _signed(word: int) -> int:
    """64 bits as int64 reads them."""
    return (word + 2**63) % 2**64 - 2**63


# Constants of splitmix64 (Steele, Lea and Flood, OOPSLA 2014); its states one and two steps on seed the two hashes.
_GOLDEN = 0x9E3779B97F4A7C15
_SEEDS = (_signed(_GOLDEN), _signed(2 * _GOLDEN))
_ROUNDS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


class Partition(Protocol):
    """Sends each row of a table to one row of every part; row 0 is padding everywhere."""

    suffixes: ClassVar[tuple[str, ...]]
    """What follows the name of the table in the name of each part."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each part, padding included."""

    def places(self, rows: Tensor) -> tuple[Tensor, ...]:
        """`[n]` int64 rows of each part for the rows `[n]` int64 of the table."""


@dataclass(frozen=True)
class Whole:
    """The table as it is.

    Attributes:
        rows: of the table, padding included.
    """

    rows: int
    suffixes: ClassVar[tuple[str, ...]] = ("",)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the one part."""
        return (self.rows,)

    def places(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The rows themselves."""
        return (rows,)


@dataclass(frozen=True)
class QuotientRemainder:
    """Quotient and remainder of a row by the number of remainders: no two rows share both.

    Attributes:
        rows: of the table, padding included.
        remainders: rows of the part of remainders, padding excluded.

    Example:
        >>> import torch
        >>> parts = QuotientRemainder(rows=10, remainders=4)
        >>> parts.sizes, [part.tolist() for part in parts.places(torch.tensor([0, 1, 4, 5, 9]))]
        ((4, 5), [[0, 1, 1, 2, 3], [0, 1, 4, 1, 1]])
    """

    rows: int
    remainders: int
    suffixes: ClassVar[tuple[str, ...]] = ("/quotient", "/remainder")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the quotients and of the remainders."""
        return 1 + -(-(self.rows - 1) // self.remainders), 1 + self.remainders

    def places(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Quotients and remainders, both from 1."""
        padding, before = rows == 0, rows - 1
        quotient, remainder = before // self.remainders + 1, before % self.remainders + 1
        return quotient.masked_fill(padding, 0), remainder.masked_fill(padding, 0)


@dataclass(frozen=True)
class DoubleHash:
    """Two independent hashes of a row: two rows share both with probability `1 / buckets ** 2`.

    Attributes:
        rows: of the table, padding included.
        buckets: rows of each part, padding excluded.
    """

    rows: int
    buckets: int
    suffixes: ClassVar[tuple[str, ...]] = ("/first", "/second")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the two parts."""
        return 1 + self.buckets, 1 + self.buckets

    def places(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Both hashes, from 1."""
        return tuple((_mixed(rows, seed) % self.buckets + 1).masked_fill(rows == 0, 0) for seed in _SEEDS)


_METHODS: dict[str, Callable[[int, int], Partition]] = {
    "quotient_remainder": QuotientRemainder,
    "double_hash": DoubleHash,
}


def partition_of(name: str, table: Table, rows: int) -> Partition:
    """How a table of the schema is held.

    Args:
        name: of the table, for the message.
        table: says how.
        rows: of the table before compression, padding included.

    Raises:
        SchemaError: its compression saves nothing.
    """
    if table.compression is None:
        return Whole(rows)
    parts = _METHODS[table.compression.method](rows, table.compression.rows)
    if sum(parts.sizes) >= rows:
        held = " and ".join(f"{size:,}" for size in parts.sizes)
        raise SchemaError(
            f"table `{name}`: compression to {held} rows saves nothing, the table has {rows:,}. Lower "
            f"`compression.rows`, to {int(rows**0.5) + 1:,} for instance, or leave `compression` out"
        )
    return parts


def _mixed(rows: Tensor, seed: int) -> Tensor:
    """63 well mixed bits of each row, the same on every device.

    Products of int64 wrap around; a shift to the right must be rid of the copies of the sign.
    """
    x = rows + seed
    for shift, factor in _ROUNDS:
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return (x ^ ((x >> 31) & (2**33 - 1))) & (2**63 - 1)
