"""Tests that stay right however often one looks: confidence sequences and always-valid p-values.

A test of fixed horizon is right at one look that was planned. Who looks daily and stops at the first p below .05 is
wrong far more often than in 5 % of the cases. Here the effect is mixed over a normal law (mixture sequential
probability ratio test, mSPRT): with `d` the difference at a look, `v` its variance and `m` the variance of the mixture,

    L = sqrt(v / (v + m)) exp(m d^2 / (2 v (v + m)))

is a nonnegative martingale of mean 1 where there is no effect, so that it ever reaches `1 / level` with a chance of
`level` at most (Ville).

The guarantee: it is exact for normal values of known variance. With estimated variances, and for metrics of any law
with a finite variance, it holds in the limit of late first looks, uniformly over all looks after it; let the first one
have 100 users in each arm, and more where few users make the mean. It needs differences whose increments are
independent of the past, in the scale of `1 / v`: values of users who are counted once, when they are complete, or means
per day over days that differ by chance alone.

Source:
    Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 1970.
    Johari, Koomen, Pekelis and Walsh, "Always valid inference", Operations Research 2022. Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics
    2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import lambertw, log_ndtr

from recsys.simulation.statistics.effect import Effect, ExperimentError, check_level

Array = NDArray[np.float64]


class RunningSums(NamedTuple):
    """What is known of one arm at each look.

    Attributes:
        n: users so far; `[..., T]` for T looks, or what broadcasts to it.
        total: `[..., T]` sum of their values.
        squares: `[..., T]` sum of the squares.
    """

    n: Array
    total: Array
    squares: Array

    @classmethod
    def of(cls, values: ArrayLike, looks: ArrayLike) -> RunningSums:
        """Sums over users in the order in which they came.

        Args:
            values: `[..., N]` of an arm; leading axes are other metrics or repetitions.
            looks: `[T]` integers, how many users each look sees.

        Raises:
            ExperimentError: a look sees nobody, more than there are, or no more than the last one; a value is missing.

        Example:
            >>> RunningSums.of([1.0, 3.0, 2.0], [2, 3]).total
            array([4., 6.])
        """
        array, at = np.asarray(values, dtype=np.float64), np.asarray(looks, dtype=np.int64)
        if not len(at) or at.min() < 1 or at.max() > array.shape[-1]:
            raise ExperimentError(f"looks see between 1 and {array.shape[-1]} users, not {at.tolist()}")
        if (np.diff(at) <= 0).any() or not np.isfinite(array).all():
            raise ExperimentError("each look sees more users than the one before, and every user has a finite value")
        total, squares = (np.cumsum(part, axis=-1)[..., at - 1] for part in (array, array**2))
        return cls(at.astype(np.float64), total, squares)

    def mean(self) -> Array:
        """`[..., T]` mean of the values."""
        return np.asarray(self.total / self.n)

    def variance(self) -> Array:
        """`[..., T]` variance of the mean; inf where fewer than two users are in."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.maximum(self.squares - self.total**2 / self.n, 0.0)
            return np.where(self.n > 1, spread / (self.n * (self.n - 1)), math.inf)


class ConfidenceSequence(NamedTuple):
    """What may be said at each look.

    Attributes:
        low: `[..., T]` lower ends; with a chance of `1 - level` all intervals hold the truth at once.
        high: `[..., T]` upper ends.
        p_value: `[..., T]` always-valid p-values of no difference, which never rise.
    """

    low: Array
    high: Array
    p_value: Array


def running_difference(control: RunningSums, treatment: RunningSums) -> tuple[Array, Array]:
    """Difference of means at each look and its estimated variance, `[..., T]` each."""
    return treatment.mean() - control.mean(), control.variance() + treatment.variance()


def mixture_variance(planned: float, level: float = 0.05) -> float:
    """Variance of the mixture with which the interval is tightest at a planned look.

    It must be fixed before the first look, from numbers of the past. A plan that is wrong costs width and no validity.

    Args:
        planned: variance of the difference at that look, such as `2 * sd**2 / n` for n users in each arm.
        level: chance that an interval ever misses the truth.

    Raises:
        ValueError: the variance is not positive, or the level is not between 0 and 1.

    Example:
        >>> round(mixture_variance(2 * 1.0**2 / 1000), 4)
        0.0164
    """
    check_level(level)
    if not 0 < planned < math.inf:
        raise ValueError(f"the planned variance of the difference is a positive number, not {planned}")
    # The width, (v + m) / m * (log((v + m) / v) + 2 log(1 / level)), is least where 1 + m / v is this.
    return planned * (-float(lambertw(-(level**2) / math.e, -1).real) - 1)


def confidence_sequence(
    difference: ArrayLike, variance: ArrayLike, mixture: float, level: float = 0.05
) -> ConfidenceSequence:
    """Intervals of a difference that hold at all looks at once, and p-values that may be read at each.

    Any estimate that is normal at late looks will do: means (`running_difference`), ratios, adjusted means.

    Args:
        difference: `[..., T]` estimates at the looks, in their order.
        variance: `[..., T]` their estimated variances; 0 or inf where nothing is known: the interval is the line.
        mixture: of `mixture_variance`.
        level: chance that an interval ever misses the truth.

    Raises:
        ValueError: the mixture is not positive, or the level is not between 0 and 1.

    Example:
        >>> found = confidence_sequence([0.5, 0.4], [0.04, 0.01], mixture=0.05)
        >>> found.low.round(2), found.p_value.round(3)
        (array([-0.2 ,  0.09]), array([0.264, 0.003]))
    """
    d, v = np.broadcast_arrays(np.asarray(difference, np.float64), np.asarray(variance, np.float64))
    half = half_width(v, mixture, level)
    p = np.minimum(np.exp(-log_likelihood(d, v, mixture)), 1.0)
    centre = np.where(np.isfinite(half), d, 0.0)
    return ConfidenceSequence(centre - half, centre + half, np.minimum.accumulate(p, axis=-1))


def half_width(variance: Array, mixture: float, level: float) -> Array:
    """Half of the width of the interval at each look; inf where nothing is known."""
    check_level(level)
    known, v = _known(variance, mixture)
    half = np.sqrt(v * (v + mixture) / mixture * (np.log1p(mixture / v) + 2 * math.log(1 / level)))
    return np.where(known, half, math.inf)


def log_likelihood(excess: Array, variance: Array, mixture: float) -> Array:
    """`log L` of an excess over the hypothesis; 0 where nothing is known."""
    known, v = _known(variance, mixture)
    grown = mixture * np.where(known, excess, 0.0) ** 2 / (2 * v * (v + mixture)) - np.log1p(mixture / v) / 2
    return np.where(known, grown, 0.0)


def _known(variance: Array, mixture: float) -> tuple[NDArray[np.bool_], Array]:
    if not 0 < mixture < math.inf:
        raise ValueError(f"the variance of the mixture is a positive number, not {mixture}; see mixture_variance")
    known = (variance > 0) & np.isfinite(variance)
    return known, np.where(known, variance, 1.0)


@dataclass(frozen=True)
class SequentialEffect:
    """An effect at one of many looks, with p-values for `decide` that may be read at any of them.

    Attributes:
        effect: at the look, by whatever test of fixed horizon; its means and standard errors are used.
        mixture: of `mixture_variance`.
    """

    effect: Effect
    mixture: float

    @property
    def difference(self) -> float:
        """`treatment - control`."""
        return self.effect.difference

    def interval(self, level: float = 0.05) -> tuple[float, float]:
        """Ends of the confidence sequence of the difference at this look."""
        half = float(half_width(np.asarray(self._variance(0.0)), self.mixture, level))
        return self.difference - half, self.difference + half

    def p_greater(self, *, relative: float = 0.0, absolute: float = 0.0) -> float:
        """Always-valid one-sided p-value of `treatment > (1 + relative) * control + absolute`.

        The effect is mixed over the upper half of the normal law.
        """
        return self._p(relative, absolute, 1)

    def p_less(self, *, relative: float = 0.0, absolute: float = 0.0) -> float:
        """Likewise of `treatment < (1 + relative) * control + absolute`."""
        return self._p(relative, absolute, -1)

    def _p(self, relative: float, absolute: float, sign: int) -> float:
        excess = sign * (self.effect.treatment - (1 + relative) * self.effect.control - absolute)
        v, m = self._variance(relative), self.mixture
        both = float(log_likelihood(np.asarray(excess), np.asarray(v), m))
        upper = math.log(2) + float(log_ndtr(excess * math.sqrt(m / (v * (v + m)))))
        return math.exp(min(0.0, -both - upper))

    def _variance(self, relative: float) -> float:
        return ((1 + relative) * self.effect.control_error) ** 2 + self.effect.treatment_error**2
