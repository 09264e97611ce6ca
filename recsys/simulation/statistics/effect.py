"""The effect of a treatment on a metric of users: a mean per user, or a ratio of sums over users.

A user is the unit that is assigned to an arm, so that the values of users are independent and those of one user's
sessions are not. Every function here takes one value per user; a ratio, such as clicks over impressions, is made one by
`linearise`, and then is a mean like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

ROUNDING = 1e-12
"""A spread below this share of the values is that of their last bits."""


class ExperimentError(ValueError):
    """The data of an experiment cannot be compared as they are."""


@dataclass(frozen=True)
class Effect:
    """Means of two arms, their difference, and how sure it is.

    Attributes:
        control: mean per user, or ratio of sums.
        treatment: likewise.
        difference: `treatment - control`.
        low: lower end of the interval of the difference.
        high: upper end.
        p_value: two-sided, of no difference.
        lift: `treatment / control - 1`, meant for metrics above zero; NaN where the control is zero.
        lift_low: lower end of the interval of the lift; -inf where the control could as well be zero.
        lift_high: upper end; inf then.
        control_error: standard error of `control`.
        treatment_error: standard error of `treatment`.
        n_control: users in the control.
        n_treatment: users in the treatment.
        level: chance that an interval misses the truth.
    """

    control: float
    treatment: float
    difference: float
    low: float
    high: float
    p_value: float
    lift: float
    lift_low: float
    lift_high: float
    control_error: float
    treatment_error: float
    n_control: int
    n_treatment: int
    level: float

    def p_greater(self, *, relative: float = 0.0, absolute: float = 0.0) -> float:
        """One-sided p-value of `treatment > (1 + relative) * control + absolute`.

        Args:
            relative: share of the control's mean, which is estimated as well and counts as that.
            absolute: in units of the metric.

        Example:
            >>> round(welch([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]).p_greater(absolute=-1.0), 3)
            0.035
        """
        statistic, freedom = self._statistic(relative, absolute)
        return float(stdtr(freedom, -statistic))

    def p_less(self, *, relative: float = 0.0, absolute: float = 0.0) -> float:
        """One-sided p-value of `treatment < (1 + relative) * control + absolute`."""
        statistic, freedom = self._statistic(relative, absolute)
        return float(stdtr(freedom, statistic))

    def _statistic(self, relative: float, absolute: float) -> tuple[float, float]:
        excess = self.treatment - (1 + relative) * self.control - absolute
        return studentised(
            excess, (1 + relative) * self.control_error, self.treatment_error, self.n_control, self.n_treatment
        )


def welch(control: ArrayLike, treatment: ArrayLike, level: float = 0.05) -> Effect:
    """Welch's test of two means, whose variances may differ, with intervals of difference and lift.

    The interval of the lift is Fieller's, with the quantile of the difference: it lies above zero where that of the
    difference does, so that the two cannot contradict each other, and it is right for a small control as well, where
    the delta method is not.

    Args:
        control: `[n]` values of the metric, one per user.
        treatment: `[m]` likewise.
        level: chance that an interval misses the truth.

    Raises:
        ExperimentError: an arm has fewer than two users, a value is missing, or all users of both arms are equal.
        ValueError: the level is not between 0 and 1.

    Source:
        Welch, Biometrika 1947. Fieller, "Some problems in interval estimation", JRSS B 1954.

    Example:
        >>> effect = welch([1.0, 0.0, 2.0, 1.0], [2.0, 1.0, 3.0, 2.0])
        >>> effect.difference, round(effect.low, 2), round(effect.high, 2), round(effect.p_value, 3)
        (1.0, -0.41, 2.41, 0.134)
    """
    c, t = per_user("control", control), per_user("treatment", treatment)
    return _effect(c, t, level)


def linearise(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """One value per user whose mean is the ratio of the sums, and whose variance is that of the ratio (delta method).

    `r + (numerator - r * denominator) / mean(denominator)` with `r` the ratio of the arm. It is for one arm at a time.

    Args:
        numerator: `[n]` sums of the users, such as clicks.
        denominator: `[n]` such as impressions; 0 for a user without any.

    Raises:
        ExperimentError: lengths differ, a value is missing, a denominator is negative, or all are zero.

    Source:
        Deng, Knoblich and Lu, "Applying the Delta Method in Metric Analytics", KDD 2018.

    Example:
        >>> linearise([1.0, 0.0, 3.0], [2.0, 2.0, 4.0]).mean()
        np.float64(0.5)
    """
    above, below = per_user("numerator", numerator), per_user("denominator", denominator)
    if above.shape != below.shape:
        raise ExperimentError(f"{len(above)} numerators for {len(below)} denominators; give both for every user")
    if below.min() < 0 or not below.sum() > 0:
        raise ExperimentError("denominators must not be negative, and their sum must be positive")
    ratio = above.sum() / below.sum()
    return np.asarray(ratio + (above - ratio * below) / below.mean())


def ratio_effect(
    numerator_control: ArrayLike,
    denominator_control: ArrayLike,
    numerator_treatment: ArrayLike,
    denominator_treatment: ArrayLike,
    level: float = 0.05,
) -> Effect:
    """Effect on a ratio of sums over users, by the delta method.

    Rows are users, so that what one user does in many sessions counts as one observation.

    Args:
        numerator_control: `[n]` sums of the users of the control.
        denominator_control: `[n]`.
        numerator_treatment: `[m]`.
        denominator_treatment: `[m]`.
        level: chance that an interval misses the truth.

    Raises:
        ExperimentError: as `linearise` and `welch`.

    Example:
        >>> effect = ratio_effect([1, 0, 3], [2, 2, 4], [2, 1, 3], [2, 2, 4])
        >>> effect.control, effect.treatment, round(effect.lift, 2)
        (0.5, 0.75, 0.5)
    """
    control = linearise(numerator_control, denominator_control)
    return _effect(control, linearise(numerator_treatment, denominator_treatment), level)


def per_user(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """`[n]` float64 values of users, or an error that names what is wrong with `name`."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ExperimentError(f"{name}: one value per user is needed, of two users at least, not shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ExperimentError(
            f"{name}: user {row} (counted from 0) has {array[row]}; a user without events has the value 0, "
            "and whoever is left out must be left out by a rule that knows no arm"
        )
    return array


def check_spread(*arms: NDArray[np.float64]) -> None:
    """Refuses a metric that is the same for all users of an arm, in each of the arms."""
    spread, scale = max(float(arm.std()) for arm in arms), max(float(np.abs(arm).max()) for arm in arms)
    if not spread > ROUNDING * scale:
        raise ExperimentError("all users of each arm have the same value, so that chance cannot be told from effect")


def studentised(
    excess: float, control_error: float, treatment_error: float, n_control: int, n_treatment: int
) -> tuple[float, float]:
    """Statistic of an excess and its degrees of freedom (Satterthwaite)."""
    c, t = control_error**2, treatment_error**2
    return excess / math.sqrt(c + t), (c + t) ** 2 / (c**2 / (n_control - 1) + t**2 / (n_treatment - 1))


def check_level(level: float) -> None:
    """Refuses what is no chance of an error."""
    if not 0 < level < 1:
        raise ValueError(f"level is the chance of an error, between 0 and 1 such as 0.05, not {level}")


def _effect(control: NDArray[np.float64], treatment: NDArray[np.float64], level: float) -> Effect:
    check_level(level)
    means = float(control.mean()), float(treatment.mean())
    errors = [float(arm.std(ddof=1)) / math.sqrt(len(arm)) for arm in (control, treatment)]
    check_spread(control, treatment)
    difference = means[1] - means[0]
    statistic, freedom = studentised(difference, errors[0], errors[1], len(control), len(treatment))
    quantile = -float(stdtrit(freedom, level / 2))
    half = quantile * math.hypot(*errors)
    return Effect(
        control=means[0],
        treatment=means[1],
        difference=difference,
        low=difference - half,
        high=difference + half,
        p_value=float(2 * stdtr(freedom, -abs(statistic))),
        lift=means[1] / means[0] - 1 if means[0] else math.nan,
        lift_low=(ends := _fieller(means, errors, quantile))[0] - 1,
        lift_high=ends[1] - 1,
        control_error=errors[0],
        treatment_error=errors[1],
        n_control=len(control),
        n_treatment=len(treatment),
        level=level,
    )


def _fieller(means: tuple[float, float], errors: list[float], quantile: float) -> tuple[float, float]:
    """Ratios rho of treatment to control at which `treatment - rho * control` is within the quantile."""
    (c, t), (c_error, t_error) = means, errors
    leading = c**2 - (quantile * c_error) ** 2
    if leading <= 0:  # the control may be zero: what is not excluded has no two ends
        return -math.inf, math.inf
    root = quantile * math.sqrt(t_error**2 * leading + (t * c_error) ** 2)
    return (t * c - root) / leading, (t * c + root) / leading
