"""Item vectors in a narrow format, for a quick look at all scores, and a proven bound on what the look can miss.

A scan compares numbers of few bits; only items whose exact score may still be among the best are scored in float32.
Which they are follows from an inequality, so that the lists do not depend on the format:

Let u, v be a user and an item vector, ũ, ṽ what they are rounded to, and s their product as the processor computes it,
with float32 sums in any order. By Cauchy-Schwarz

    |u·v - ũ·ṽ| = |(u - ũ)·v + ũ·(v - ṽ)| <= ‖u - ũ‖ ‖v‖ + ‖ũ‖ ‖v - ṽ‖,

where all four norms are measured, not estimated from the format: of v and v - ṽ the largest of a block of items. Sums
of d products in float32, of the scan and of `pair_scores`, each differ from the real ones by less than d 2^-23 ‖u‖ ‖v‖,
and norms that are measured in float32 by less than d 2^-24 of themselves; (d + 4) 2^-21 ‖u‖ ‖v‖ covers all of it with
room to spare. What is lost where numbers are too small for a normal float is below an absolute term. Together

    |pair_scores(u, v) - s| <= error(u, block).

A sum that is rounded to bfloat16 keeps its order: rounding is monotone, so s is compared with a rounded limit. Where a
lower bound is wanted of it, it may be 2^-8 |s| too high (8 significant bits, half a unit of the last).

The inequality is tight where no dimension dominates. So columns are divided by a power of two that brings their largest
value to at most 1, and user vectors are multiplied by it, which changes no product: a dimension that most users do not
have, as that of popularity, does not make the bound of all loose.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

Scan = Literal["auto", "bf16", "int8", "fp32"]

_TINY = 2.0**-60
"""More than what products and norms of scaled vectors lose, a dimension, to squares below 2^-126."""


def pair_scores(users: Tensor, items: Tensor) -> Tensor:
    """Inner products of pairs of vectors, each the same whatever other pairs there are.

    Products are added up by halves, element by element, so that the order of additions depends on the number of
    dimensions alone; that of a matrix product depends on its size, and on the library.

    Args:
        users: `[P, d]` float32.
        items: `[P, d]` float32.

    Returns:
        `[P]` float32.

    Example:
        >>> pair_scores(torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, 1, 2]]))
        tensor([9.])
    """
    terms = users * items
    while terms.shape[1] > 1:
        half = (terms.shape[1] + 1) // 2
        rest = terms.shape[1] - half
        terms[:, :rest] += terms[:, half:]
        terms = terms[:, :half]
    return terms.sum(1)  # of one term, or of none


@dataclass(frozen=True)
class Scanned:
    """User vectors as a scan reads them.

    Attributes:
        narrow: `[B, d]` in the format of the table.
        unit: `[B]` float64, what a step of a score in the format stands for.
        scale: `[B]` float64, powers of two by which scores of the scan are those of the vectors.
        norm: `[B]` float64, ‖u‖ of the scaled vectors.
        residual: `[B]` float64, ‖u - ũ‖.
    """

    narrow: Tensor
    unit: Tensor
    scale: Tensor
    norm: Tensor
    residual: Tensor


class ScanTable(abc.ABC):
    """The vectors of blocks of items in a narrow format.

    Scores are handed out as integers that are ordered as the scores are, once `make_sortable` was called; before, those
    above 0 are, and others lie below them.

    Memory: an item takes `d` times the bytes of the format; while it is made, a block 16 bytes a number.

    Args:
        vectors: `[blocks, width, d]` float32, finite.

    Attributes:
        hidden: a score below all others, in the format.
        largest_norm: no vector, as it was given, is longer.
    """

    dtype: ClassVar[torch.dtype]
    score_dtype: ClassVar[torch.dtype]
    hidden: ClassVar[float]

    def __init__(self, vectors: Tensor) -> None:
        blocks, _, self._d = vectors.shape
        self._columns = _power_of_two(torch.stack([rows.abs().amax(0) for rows in vectors]).amax(0))
        self.largest_norm = float(self._columns.norm())
        self._narrow = torch.empty(vectors.shape, dtype=self.dtype)
        # In float32 where powers of two leave its normal range for no more than what `_TINY` covers.
        exact = bool(((self._columns > 2.0**-100) & (self._columns < 2.0**100)).all())
        dtype = torch.float32 if exact else torch.float64
        self._unit, self._norm, self._residual = (torch.zeros(blocks, dtype=torch.float64) for _ in range(3))
        for block, rows in enumerate(vectors):
            scaled = rows.to(dtype) / self._columns.to(dtype)
            self._narrow[block], unit, residual = self._rounded(scaled, scaled.abs().max())
            self._unit[block] = unit
            self._norm[block], self._residual[block] = scaled.norm(dim=1).max(), residual.max()

    def scanned(self, source: Tensor) -> Scanned:
        """User vectors `[B, d]` float32, finite, as `scores` wants them."""
        scaled = source.double() * self._columns
        # Of about length 1, so that no score of the scan overflows.
        scale = _power_of_two(scaled.norm(dim=1))
        scaled /= scale[:, None]
        narrow, unit, residual = self._rounded(scaled, scaled.abs().amax(1, keepdim=True))
        return Scanned(narrow, unit.expand(len(source), 1).squeeze(1), scale, scaled.norm(dim=1), residual)

    def error(self, users: Scanned, block: int) -> Tensor:
        """`[B]` float64: how far a score of the scan may lie from that of `pair_scores` over `users.scale`."""
        norm = users.norm * self._norm[block]
        rounding = users.residual * self._norm[block] + (users.norm + users.residual) * self._residual[block]
        sums = (self._d + 4) * 2.0**-21 * norm
        # Products below the normal range, of the vectors as they are, are lost in units of 2^-126.
        small = 2 * self._d * 2.0**-126 / users.scale
        return rounding + sums + small + self._d * _TINY

    @abc.abstractmethod
    def scores(self, users: Scanned, block: int, out: Tensor) -> None:
        """Scans a block into `out`, `[width, B]` of `score_dtype`."""

    def integers(self, scores: Tensor) -> Tensor:
        """The same memory as integers."""
        return scores

    @abc.abstractmethod
    def make_sortable(self, integers: Tensor) -> None:
        """Makes the order of integers that of the scores, in place."""

    @abc.abstractmethod
    def cut(self, limit: Tensor, users: Scanned, block: int) -> Tensor:
        """`[B]` sortable integers: what is scanned at no less than `limit` `[B]` float64 has no lower one.

        It is above `hidden`, whatever the limit.
        """

    @abc.abstractmethod
    def between(self, integers: Tensor, rows: Tensor, users: Scanned, block: int) -> tuple[Tensor, Tensor]:
        """Between which values sums were that are handed out as sortable `integers`, both `[n]` float64.

        Args:
            integers: `[n]`.
            rows: `[n]` int64, whose sums.
            users: who has scanned.
            block: of the table.
        """

    @abc.abstractmethod
    def _rounded(self, scaled: Tensor, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows in the format, the unit of their numbers, and their residual norms `[n]` float64."""


class _FloatTable(ScanTable):
    _integer: ClassVar[torch.dtype]
    _least: ClassVar[int]
    hidden = -torch.inf

    def scores(self, users: Scanned, block: int, out: Tensor) -> None:
        torch.mm(self._narrow[block], users.narrow.T, out=out)

    def integers(self, scores: Tensor) -> Tensor:
        return scores.view(self._integer)

    def make_sortable(self, integers: Tensor) -> None:
        bits = torch.iinfo(self._integer).bits
        integers ^= (integers >> (bits - 1)).bitwise_and_(torch.iinfo(self._integer).max)

    def cut(self, limit: Tensor, users: Scanned, block: int) -> Tensor:
        rounded = limit.float().to(self.score_dtype).clamp_(min=torch.finfo(self.score_dtype).min)
        cut = rounded.masked_fill_(rounded == 0, -0.0).view(self._integer)
        self.make_sortable(cut)
        return cut

    def _rounded(self, scaled: Tensor, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        narrow = scaled.to(self.dtype)
        return narrow, torch.ones(1, dtype=torch.float64), (scaled - narrow.to(scaled.dtype)).norm(dim=1)

    def _value(self, integers: Tensor) -> Tensor:
        bits = integers.clone()
        self.make_sortable(bits)  # which is its own inverse
        return bits.view(self.score_dtype).double()


class BFloatTable(_FloatTable):
    """Of bfloat16, 2 bytes a number: multiplied at several times the speed of float32 by processors that know it."""

    dtype = score_dtype = torch.bfloat16
    _integer = torch.int16

    def between(self, integers: Tensor, rows: Tensor, users: Scanned, block: int) -> tuple[Tensor, Tensor]:
        value = self._value(integers)
        half = value.abs() * 2.0**-8
        return value - half, value + half


class FloatTable(_FloatTable):
    """Of float32: for processors that know nothing narrower."""

    dtype = score_dtype = torch.float32
    _integer = torch.int32

    def between(self, integers: Tensor, rows: Tensor, users: Scanned, block: int) -> tuple[Tensor, Tensor]:
        value = self._value(integers)
        return value, value


class IntTable(ScanTable):
    """Of int8, 1 byte a number, with one unit for a block: sums are exact, and more items than of bfloat16 are near."""

    dtype, score_dtype = torch.int8, torch.int32
    hidden = torch.iinfo(torch.int32).min

    def scores(self, users: Scanned, block: int, out: Tensor) -> None:
        if self._d == 1:  # of which torch._int_mm makes nonsense
            torch.mul(self._narrow[block].int(), users.narrow.int().T, out=out)
        else:
            torch._int_mm(self._narrow[block], users.narrow.T, out=out)

    def make_sortable(self, integers: Tensor) -> None:
        pass  # they are

    def cut(self, limit: Tensor, users: Scanned, block: int) -> Tensor:
        steps = (limit / (users.unit * self._unit[block])).floor_()
        return steps.clamp_(min=self.hidden + 1, max=torch.iinfo(torch.int32).max).int()

    def between(self, integers: Tensor, rows: Tensor, users: Scanned, block: int) -> tuple[Tensor, Tensor]:
        value = integers.double() * users.unit[rows] * self._unit[block]
        value.masked_fill_(integers == self.hidden, -torch.inf)
        return value, value

    def _rounded(self, scaled: Tensor, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit = largest / 127
        unit = torch.where(unit > 0, unit, torch.ones_like(unit))
        narrow = (scaled / unit).round_()
        return narrow.to(torch.int8), unit, (scaled - narrow * unit).norm(dim=1)


def _power_of_two(values: Tensor) -> Tensor:
    """The least powers of two above values, float64; 1 where there is nothing."""
    return torch.where(values > 0, torch.exp2(torch.frexp(values.double()).exponent.double()), 1.0)
