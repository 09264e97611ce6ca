"""Random orders of any length that are computed place by place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.features.mixing import mixed

SMALL = 1 << 20
"""Up to so many, the whole order is drawn at once, and is uniform over all orders."""

_ROUNDS = 6


class Permutation:
    """A random order of 0..n-1, known by its seed.

    Longer orders than `SMALL` are never held: a Feistel network maps places to values one to one, and values beyond n
    are mapped again until they are below it (cycle walking, at most four times on average).

    Args:
        n: how many there are.
        seed: numbers that name the order.

    Source:
        Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.

    Example:
        >>> order = Permutation(5, [0, 1])
        >>> sorted(order(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, seed: Sequence[int]) -> None:
        random = np.random.default_rng(seed)
        self.n = n
        self._order = random.permutation(n) if n <= SMALL else None
        self._half = np.uint64(-(-(n - 1).bit_length() // 2))
        self._keys = random.integers(0, 1 << 63, _ROUNDS).astype(np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The values at `places` `[m]` int64 in 0..n-1."""
        if self._order is not None:
            return self._order[places]
        values = self._mapped(places.astype(np.uint64))
        beyond = np.flatnonzero(values >= self.n)
        while len(beyond):
            values[beyond] = self._mapped(values[beyond])
            beyond = beyond[values[beyond] >= self.n]
        return values.astype(np.int64)

    def _mapped(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = values >> self._half, values & mask
        for key in self._keys:
            left, right = right, left ^ (mixed(right + key) & mask)
        return (left << self._half) | right
