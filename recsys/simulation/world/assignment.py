"""Which unit belongs to which arm: a salted hash of its id, so that nobody has to remember it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.features.mixing import mixed


def uniform_hash(units: NDArray[np.integer], salt: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each unit that depends on its id and the salt alone.

    Args:
        units: ids, of any shape.
        salt: names the experiment; other salts give numbers that have nothing to do with these.

    Source:
        The mixing of Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    key = np.uint64(int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big"))
    with np.errstate(over="ignore"):
        bits = mixed(mixed(units.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key) ^ key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def assign(units: NDArray[np.integer], shares: Sequence[float], salt: str) -> NDArray[np.int64]:
    """The arm of each unit, -1 for those that take no part.

    Args:
        units: ids, of any shape.
        shares: of the arms; one of 0 gets nobody, and what they lack to 1 takes no part.
        salt: names the experiment.

    Raises:
        ValueError: a share is negative, none is positive, or they are more than 1 together.

    Example:
        >>> arms = assign(np.arange(10_000), [0.5, 0.3], salt="first")
        >>> [round(float(np.mean(arms == arm)), 1) for arm in (-1, 0, 1)]
        [0.2, 0.5, 0.3]
    """
    ends = np.cumsum(np.asarray(shares, dtype=np.float64))
    if not len(ends) or min(shares) < 0 or not 0 < ends[-1] <= 1 + 1e-9:
        raise ValueError(f"shares of arms are not negative, and above 0 and at most 1 together, not {list(shares)}")
    arm = np.searchsorted(ends, uniform_hash(units, salt), side="right")
    if ends[-1] > 1 - 1e-9:
        arm = np.minimum(arm, len(ends) - 1)
    return np.where(arm < len(ends), arm, -1)
