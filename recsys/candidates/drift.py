"""How far counts have moved from those of another night: scores, and which items are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_MANTISSA = 8
"""Bits of the mantissa that tell cells apart: a cell is at most 0.4 % of its scores wide."""
_SHIFT = 23 - _MANTISSA
_MAGNITUDE = np.int32(0x7FFFFFFF)
CELLS = 1 << (32 - _SHIFT)
"""Cells of a histogram of scores."""


def cells_of(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """The cell of each finite score, 0..`CELLS` - 1: ascending with the score, whatever its scale.

    A cell holds the float32 numbers whose sign, exponent and first 8 bits of the mantissa agree, so that histograms of
    parts, nights and models add up and compare without having seen each other.

    Example:
        >>> cells = cells_of(np.array([-2.0, -0.0, 0.0, 1.0, 1.001, 1.01], dtype=np.float32))
        >>> (np.diff(cells) > 0).tolist()
        [True, False, True, False, True]
    """
    bits = (scores + np.float32(0)).view(np.int32)  # adding 0 makes -0.0 equal to 0.0
    return ((bits ^ ((bits >> 31) & _MAGNITUDE)) >> _SHIFT).astype(np.int64) + CELLS // 2


def least_of(cell: int) -> float:
    """The least score of a cell."""
    bits = np.int32((cell - CELLS // 2) << _SHIFT)
    return float((bits ^ ((bits >> np.int32(31)) & _MAGNITUDE)).view(np.float32))


def quantile(histogram: NDArray[np.int64], share: float) -> float:
    """The least score of the cell that holds a quantile of a histogram `[CELLS]`; NaN where it is empty.

    Args:
        histogram: counts by cell.
        share: of the scores that lie below, 0..1.
    """
    total = int(histogram.sum())
    if not total:
        return float("nan")
    place = min(int(share * total), total - 1)
    return least_of(int(np.searchsorted(histogram.cumsum(), place, side="right")))


def population_stability(before: NDArray[np.int64], after: NDArray[np.int64], bins: int = 10) -> float:
    """The population stability index of two histograms of the same cells.

    `sum over bins (q - p) ln(q / p)`, bins being those that hold an equal share of the scores before, as far as cells
    can be told apart. Shares are those of counts plus one half, so that an empty bin is no infinity. Below 0.1 is
    commonly read as no change, above 0.25 as another population.

    Source: Siddiqi, "Credit Risk Scorecards", 2006; it is the symmetric Kullback-Leibler divergence of Jeffreys, 1946.

    Args:
        before: counts by cell of the reference.
        after: counts by cell of what is compared.
        bins: of equal share.

    Raises:
        ValueError: there is nothing to compare with.
    """
    total = int(before.sum())
    if not total:
        raise ValueError("a histogram without scores is no reference")
    below = before.cumsum() - before
    bin_of = np.minimum(below * bins // total, bins - 1)
    counts = [np.bincount(bin_of, weights=histogram, minlength=bins) for histogram in (before, after)]
    used = counts[0] > 0
    p, q = ((count[used] + 0.5) / (count[used] + 0.5).sum() for count in counts)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(before: pd.Series, after: pd.Series) -> float:
    """The Jensen-Shannon divergence of two distributions in bits: 0 for equal ones, 1 for ones without common items.

    Source: Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory, 1991.

    Args:
        before: counts, by raw item id.
        after: counts, by raw item id.

    Raises:
        ValueError: one of them is empty.

    Example:
        >>> round(jensen_shannon(pd.Series({"a": 1, "b": 1}), pd.Series({"b": 5})), 4)
        0.3113
    """
    if not before.sum() or not after.sum():
        raise ValueError("a distribution without counts has no divergence")
    p, q = (before / before.sum()).align(after / after.sum(), fill_value=0.0)
    middle = (p + q) / 2
    return float(sum(_relative(part, middle) for part in (p, q)) / 2)


def _relative(part: pd.Series, whole: pd.Series) -> float:
    """Kullback-Leibler divergence in bits."""
    some = part > 0
    return float((part[some] * np.log2(part[some] / whole[some])).sum())
