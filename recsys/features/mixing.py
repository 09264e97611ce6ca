"""Numbers whose bits have nothing to do with each other, made of numbers that have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FACTORS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_LAST = np.uint64(31)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a bijection of 64 bits, each of which depends on all; 0 stays 0.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.

    Example:
        >>> mixed(np.array([0, 1, 2], dtype=np.uint64)).tolist()
        [0, 6238072747940578789, 15839785061582574730]
    """
    for shift, factor in _FACTORS:
        values = (values ^ (values >> shift)) * factor  # products wrap around
    return values ^ (values >> _LAST)
