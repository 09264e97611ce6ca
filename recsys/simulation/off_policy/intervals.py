"""Intervals of estimates. Users are drawn, with all of their rounds: those of one user are no independent draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from recsys.simulation.off_policy.terms import Terms

BUDGET_BYTES = 64 * 2**20
"""Most memory that the counts of the resamples take at a time."""
MOST_UNITS = 50_000
"""Users beyond this number are put into so many bins at random before they are resampled."""


class Interval(NamedTuple):
    """Ends of an interval."""

    low: float
    high: float


class IntervalMethod(Protocol):
    """Makes intervals of several estimates over the same rounds."""

    def intervals(self, terms: Mapping[str, Terms], unit: NDArray[np.int64], level: float) -> dict[str, Interval]:
        """Two-sided intervals by name, each of which misses the truth with a chance of `level`."""


class LowerBound(Protocol):
    """Bounds an estimate from below."""

    def lower(self, terms: Terms, unit: NDArray[np.int64], level: float) -> float:
        """A number that is above the truth with a chance of `level` at most."""


def unit_sums(values: NDArray[np.float64], unit: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[U]` sums of values `[N]` by unit, over the units that have rounds."""
    present = np.bincount(unit) > 0
    return np.asarray(np.bincount(unit, weights=values)[present], dtype=np.float64)


class Normal:
    """Estimate plus and minus a multiple of its standard error, which is computed from the sums of users.

    Example:
        >>> low, high = Normal().intervals({"x": Terms(np.array([0.0, 1.0]))}, np.arange(2), 0.05)["x"]
        >>> round(low, 3), round(high, 3)
        (-0.48, 1.48)
    """

    def intervals(self, terms: Mapping[str, Terms], unit: NDArray[np.int64], level: float) -> dict[str, Interval]:
        z = float(norm.isf(level / 2))
        found = {}
        for name, each in terms.items():
            half = z * standard_error(each, unit)
            found[name] = Interval(each.value - half, each.value + half)
        return found

    def lower(self, terms: Terms, unit: NDArray[np.int64], level: float) -> float:
        return terms.value - float(norm.isf(level)) * standard_error(terms, unit)


def standard_error(terms: Terms, unit: NDArray[np.int64]) -> float:
    """Standard error of an estimate, robust to what rounds of one user have in common; NaN for a single user."""
    sums = unit_sums(terms.influence(), unit)
    units = len(sums)
    if units < 2:
        return float("nan")
    return float(np.sqrt(units / (units - 1) * (sums**2).sum())) / len(terms.base)


class Bootstrap:
    """Percentile bootstrap over users. Hyper-parameters that were chosen from the data stay as they were chosen.

    Args:
        resamples: number of samples.
        seed: of the draws; equal seeds give equal intervals.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
    """

    def __init__(self, resamples: int = 1000, seed: int = 0) -> None:
        self.resamples, self.seed = resamples, seed

    def intervals(self, terms: Mapping[str, Terms], unit: NDArray[np.int64], level: float) -> dict[str, Interval]:
        found = {}
        for name, values in self.samples(terms, unit).items():
            low, high = np.quantile(values, [level / 2, 1 - level / 2])
            found[name] = Interval(float(low), float(high))
        return found

    def lower(self, terms: Terms, unit: NDArray[np.int64], level: float) -> float:
        return float(np.quantile(self.samples({"one": terms}, unit)["one"], level))

    def samples(self, terms: Mapping[str, Terms], unit: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """`[resamples]` values of each estimate, all over the same draws."""
        random = np.random.default_rng(self.seed)
        units = int(unit.max()) + 1
        if units > MOST_UNITS:
            unit = random.permutation(units)[unit] % MOST_UNITS
        columns = [np.ones(len(unit))]
        for each in terms.values():
            columns.append(each.base if each.pull is None else each.base + each.pull)
            if each.numerator is not None and each.denominator is not None:
                columns += [each.numerator, each.denominator]
        sums = np.stack([unit_sums(column, unit) for column in columns], axis=1)
        drawn = self._drawn(sums, random)
        found, at = {}, 1
        for name, each in terms.items():
            values = drawn[:, at] / drawn[:, 0]
            if each.numerator is not None:
                below = drawn[:, at + 2]
                # A resample without any weight says nothing; it gets the estimate.
                ratio = np.divide(drawn[:, at + 1], below, out=np.full(len(below), each.ratio), where=below > 0)
                values, at = values + ratio, at + 2
            found[name] = values
            at += 1
        return found

    def _drawn(self, sums: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
        """`[resamples, M]` sums over drawn units, of sums `[U, M]`."""
        units = len(sums)
        drawn = np.empty((self.resamples, sums.shape[1]))
        step = max(1, BUDGET_BYTES // (16 * units))
        for first in range(0, self.resamples, step):
            rows = min(step, self.resamples - first)
            at = random.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
            counts = np.bincount(at.reshape(-1), minlength=rows * units).reshape(rows, units)
            drawn[first : first + rows] = counts.astype(np.float64) @ sums
        return drawn


class EmpiricalBernstein:
    """A lower bound that holds for any number of users, for the weighted rewards of `IPW`; rewards are not negative.

    Cutting the sums of users at a height lowers their mean, so that a bound of what is left is one of the whole. The
    heights are powers of two times the mean number of rounds of a user, fixed beforehand; each gets an equal part of
    the level, and the best bound is taken.

    Args:
        heights: how many are tried, from 1 upwards, in units of `reward`.
        reward: the scale of the rewards, known beforehand, such as 1 for clicks.

    Source: Maurer and Pontil, "Empirical Bernstein bounds and sample variance penalization", COLT 2009; Thomas,
    Theocharous and Ghavamzadeh, "High confidence off-policy evaluation", AAAI 2015, for the cut.
    """

    def __init__(self, heights: int = 12, reward: float = 1.0) -> None:
        self.heights, self.reward = heights, reward

    def lower(self, terms: Terms, unit: NDArray[np.int64], level: float) -> float:
        """A number that is above the truth with a chance of `level` at most.

        Raises:
            ValueError: a term is negative, the estimate is a ratio, or a model learned its terms from the rounds.
        """
        if terms.numerator is not None or terms.pull is not None or (terms.base < 0).any():
            raise ValueError(
                "the empirical Bernstein bound needs weighted rewards that are not negative, and no learned ones; use "
                "the bootstrap"
            )
        sums = unit_sums(terms.base, unit)
        units = len(sums)
        if units < 2:
            return 0.0
        sums = sums * (units / len(unit))  # their mean over users is the mean over rounds
        said = math.log(2 * self.heights / level)
        best = 0.0
        for power in range(self.heights):
            height = self.reward * 2.0**power
            cut = np.minimum(sums, height)
            slack = math.sqrt(2 * cut.var(ddof=1) * said / units) + 7 * height * said / (3 * (units - 1))
            best = max(best, float(cut.mean()) - slack)
        return best
