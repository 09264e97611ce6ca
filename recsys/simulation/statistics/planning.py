"""How many users an experiment needs, how many days that takes, and what it can find."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.power import NormalIndPower

from recsys.simulation.statistics.effect import ExperimentError, check_level


class Users(NamedTuple):
    """Users of an experiment.

    Attributes:
        control: in the control.
        treatment: in the treatment.
    """

    control: int
    treatment: int


def required_users(effect: float, sd: float, *, power: float = 0.8, level: float = 0.05, share: float = 0.5) -> Users:
    """Users that show an effect with a chance of `power`, by a two-sided test of fixed horizon.

    The test statistic is taken as normal, which from some 50 users in each arm on is Welch's.

    Args:
        effect: difference of the means that must not be missed, in units of the metric.
        sd: standard deviation of the metric over users: of the values for a mean, of `linearise` for a ratio; times
            `sqrt(1 - reduction)` where `cuped` adjusts. A treatment that raises a rate raises its variance too: the
            root of the mean variance of both arms is what counts.
        power: chance to show it.
        level: chance to show one where there is none.
        share: of the users who get the treatment.

    Raises:
        ValueError: an argument makes no sense.

    Example:
        >>> required_users(effect=0.1, sd=1.0)
        Users(control=1570, treatment=1570)
    """
    _check(sd, level, share, power)
    if not (math.isfinite(effect) and effect):
        raise ValueError(f"the effect must be a number other than zero, not {effect}")

    total = (_noncentrality(power, level) * sd / effect) ** 2 / (share * (1 - share))
    # What rounding does to a root must not cost a user.
    return Users(*(max(2, math.ceil(part * total - 1e-6)) for part in (1 - share, share)))


def achieved_power(effect: float, sd: float, users: Users, level: float = 0.05) -> float:
    """Chance that a two-sided test of fixed horizon shows an effect.

    Args:
        effect: difference of the means, in units of the metric.
        sd: as in `required_users`.
        users: in each arm.
        level: of the test.

    Example:
        >>> round(achieved_power(0.1, 1.0, Users(1570, 1570)), 3)
        0.8
    """
    _check(sd, level)
    _check_users(users)
    ratio = users.treatment / users.control
    return float(NormalIndPower().power(abs(effect) / sd, users.control, level, ratio))


def minimum_detectable_effect(sd: float, users: Users, *, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest effect that is shown with a chance of `power`, in units of the metric.

    Args:
        sd: as in `required_users`.
        users: in each arm.
        power: chance to show it.
        level: of the test.

    Example:
        >>> round(minimum_detectable_effect(1.0, Users(1570, 1570)), 3)
        0.1
    """
    _check(sd, level, power=power)
    _check_users(users)
    return sd * _noncentrality(power, level) * math.sqrt(1 / users.control + 1 / users.treatment)


def unique_users(users: ArrayLike, days: ArrayLike) -> NDArray[np.int64]:
    """Distinct users up to and with each day, from visits: who comes back is counted once.

    Args:
        users: `[V]` user of each visit.
        days: `[V]` integers, from 0.

    Raises:
        ExperimentError: lengths differ, there is no visit, or a day is negative.

    Example:
        >>> unique_users(["a", "b", "a", "c"], [0, 0, 1, 2])
        array([2, 2, 3])
    """
    who, when = np.asarray(users), np.asarray(days, dtype=np.int64)
    if who.shape != when.shape or who.ndim != 1 or not len(who) or when.min() < 0:
        raise ExperimentError("every visit has a user and a day from 0, and there must be one at least")
    number = np.unique(who, return_inverse=True)[1]
    first = np.full(number.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, number, when)
    return np.bincount(first, minlength=int(when.max()) + 1).cumsum()


def expected_unique_users(visit_chance: ArrayLike, days: int) -> NDArray[np.float64]:
    """Users to be expected up to and with each day, where each comes on a day by a chance of his own.

    Args:
        visit_chance: `[U]` chance of each user to come on a day.
        days: how many.

    Raises:
        ValueError: a chance is none.

    Example:
        >>> expected_unique_users([1.0, 0.5], 3)
        array([1.5  , 1.75 , 1.875])
    """
    chance = np.asarray(visit_chance, dtype=np.float64)
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError("chances to come on a day lie between 0 and 1")
    away, found = np.ones_like(chance), np.empty(days)
    for day in range(days):
        away *= 1 - chance
        found[day] = (1 - away).sum()
    return found


def duration(required: Users, unique: ArrayLike, traffic: float = 1.0) -> int:
    """Days until both arms have the users that they need.

    A user who comes back brings no second observation, so that users by day must not be added up.

    Args:
        required: of `required_users`.
        unique: `[D]` distinct users up to and with each day, such as `unique_users` or `expected_unique_users` give.
        traffic: share of the users who are in the experiment at all.

    Raises:
        ExperimentError: the curve ends before enough users came.
        ValueError: the traffic is no share.

    Example:
        >>> duration(Users(100, 100), [90, 150, 190, 220])
        4
    """
    if not 0 < traffic <= 1:
        raise ValueError(f"traffic is the share of users in the experiment, above 0 and up to 1, not {traffic}")
    curve = np.asarray(unique, dtype=np.float64)
    enough = np.flatnonzero(traffic * curve >= sum(required))
    if not len(enough):
        have = traffic * curve[-1] if len(curve) else 0
        raise ExperimentError(
            f"{len(curve)} days bring {have:.0f} of {sum(required)} users; give a longer curve, more traffic, or a "
            "larger effect to be found (minimum_detectable_effect says which)"
        )
    return int(enough[0]) + 1


def _noncentrality(power: float, level: float) -> float:
    """Effect in standard errors that is shown with a chance of `power`: with two users in each arm these are `sd`s."""
    return float(NormalIndPower().solve_power(None, 2, level, power))


def _check_users(users: Users) -> None:
    if min(users) < 2:
        raise ValueError(f"an arm needs two users at least, not {users}")


def _check(sd: float, level: float, share: float = 0.5, power: float = 0.8) -> None:
    check_level(level)
    if not 0 < sd < math.inf:
        raise ValueError(f"sd is the standard deviation of the metric over users, a positive number, not {sd}")
    if not (0 < share < 1 and level < power < 1):
        raise ValueError(f"share lies between 0 and 1, power between the level and 1, not {share} and {power}")
