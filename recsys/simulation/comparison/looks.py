"""A metric per visit, day after day: what a test says at the planned end, and what may be said on every day before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from recsys.simulation.statistics.cuped import cuped
from recsys.simulation.statistics.effect import Effect, ExperimentError, linearise, welch
from recsys.simulation.statistics.sequential import half_width, mixture_variance
from recsys.simulation.world.outcome import Outcome

FIRST_USERS = 100
"""Users that each arm needs before anything is said of a day."""
SLICE_USERS = 30
"""Users of a group that each arm needs before anything is said of the group at the end."""


@dataclass(frozen=True)
class Lift:
    """Relative difference of a metric from the control.

    Attributes:
        value: 0.1 is a tenth more.
        low: lower end of its interval, -inf where nothing is known.
        high: upper end, inf likewise.
    """

    value: float
    low: float
    high: float

    @property
    def conclusive(self) -> bool:
        """Whether zero is outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Look:
    """What is known at the end of a day.

    Attributes:
        day: from 1.
        users: of control and treatment so far.
        fixed: what a test says that looks on this day alone.
        anytime: what may be said on every day, whoever looked before.
        spread: standard deviation of the metric over users, adjusted by the pre-period.
    """

    day: int
    users: tuple[int, int]
    fixed: Lift
    anytime: Lift
    spread: float


def per_visit(
    outcome: Outcome, arm: str, metric: str, days: int | None = None, users: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """`[n]` one value for each user who came, whose mean is the metric per visit; see `linearise`.

    Args:
        outcome: of the experiment.
        arm: its name.
        metric: one of `METRICS`.
        days: from the start; None: all.
        users: `[n_users + 1]`, who counts; None: everybody.
    """
    here = outcome.users(arm, days)
    kept = slice(None) if users is None else users[here]
    return linearise(outcome.of(arm, metric, days)[kept], outcome.of(arm, "sessions", days)[kept])


def effect_per_visit(outcome: Outcome, arms: tuple[str, str], metric: str, level: float, days: int | None) -> Effect:
    """Effect on a metric per visit, less what the pre-period tells of it (CUPED).

    Args:
        outcome: of an experiment with a pre-period.
        arms: control and treatment.
        metric: one of `METRICS`.
        level: chance that an interval misses the truth.
        days: from the start; None: all.

    Raises:
        ExperimentError: too few users came.
    """
    values = [per_visit(outcome, arm, metric, days) for arm in arms]
    before = [linearise(outcome.covariate(arm, metric, days), outcome.covariate(arm, "sessions", days)) for arm in arms]
    return cuped(*values, *before).effect(level)


def looks(outcome: Outcome, arms: tuple[str, str], metric: str, level: float) -> tuple[list[Look], float]:
    """What is known at the end of each day, and the variance of the mixture that was fixed beforehand.

    Args:
        outcome: of an experiment with a pre-period.
        arms: control and treatment.
        metric: one of `METRICS`.
        level: chance that an interval misses the truth; of `anytime`, that any of them does.

    Raises:
        ExperimentError: fewer than `FIRST_USERS` came to an arm in all.
    """
    everybody = [len(outcome.users(arm)) for arm in arms]
    if min(everybody) < FIRST_USERS:
        raise ExperimentError(
            f"{min(everybody)} users came to an arm in {outcome.days} days, and {FIRST_USERS} are needed; give more "
            "users a day, or more days"
        )
    mixture = planned_mixture(outcome, arms, metric, level)
    found = []
    for day in range(1, outcome.days + 1):
        users = (len(outcome.users(arms[0], day)), len(outcome.users(arms[1], day)))
        if min(users) < FIRST_USERS:
            unknown = Lift(math.nan, -math.inf, math.inf)
            found.append(Look(day, users, unknown, unknown, math.nan))
            continue
        effect = effect_per_visit(outcome, arms, metric, level, day)
        fixed = Lift(effect.lift, effect.lift_low, effect.lift_high)
        found.append(Look(day, users, fixed, anytime_lift(effect, mixture, level), spread(effect)))
    return found, mixture


def planned_mixture(outcome: Outcome, arms: tuple[str, str], metric: str, level: float) -> float:
    """Variance of the mixture by the spread of the pre-period, for as many users as come in the end."""
    days = len(outcome.before["sessions"])
    came = outcome.before["sessions"].any(0)
    sums = [outcome.before[name][:, came].sum(0, dtype=np.float64) for name in (metric, "sessions")]
    if days == 0 or came.sum() < 2 or not sums[0].any():
        raise ExperimentError(f"nothing is known of {metric} from before the experiment; give it a longer pre-period")
    variance = float(linearise(*sums).var(ddof=1))
    return mixture_variance(variance * sum(1 / len(outcome.users(arm)) for arm in arms), level)


def anytime_lift(effect: Effect, mixture: float, level: float) -> Lift:
    """The lift with the ends that its confidence sequence has at this look.

    An end is the ratio at which `treatment - ratio x control` leaves the interval of a difference, so that it lies
    above zero where that of the difference does.

    Args:
        effect: at the look.
        mixture: of `mixture_variance`.
        level: chance that the interval of any look misses the truth.
    """

    def outside(ratio: float) -> float:
        variance = (ratio * effect.control_error) ** 2 + effect.treatment_error**2
        width = float(half_width(np.asarray(variance), mixture, level))
        return abs(effect.treatment - ratio * effect.control) - width

    middle = effect.treatment / effect.control
    ends = []
    for sign in (-1, 1):
        step = max(abs(middle), 1.0)
        while outside(middle + sign * step) < 0 and step < 1e6:
            step *= 2
        far = middle + sign * step
        ends.append(float(brentq(outside, middle, far)) - 1 if outside(far) > 0 else sign * math.inf)
    return Lift(effect.lift, *ends)


def first_conclusive(found: list[Look], anytime: bool) -> int | None:
    """The first day on which zero is outside; None: there is none."""
    for look in found:
        if (look.anytime if anytime else look.fixed).conclusive:
            return look.day
    return None


def spread(effect: Effect) -> float:
    """Standard deviation of the metric over users, of both arms together."""
    return math.sqrt((effect.control_error**2 * effect.n_control + effect.treatment_error**2 * effect.n_treatment) / 2)


def slice_lift(
    outcome: Outcome, arms: tuple[str, str], metric: str, level: float, users: NDArray[np.bool_]
) -> Lift | None:
    """The lift among some users; None: fewer than `SLICE_USERS` came to an arm, or all are alike.

    Args:
        outcome: of the experiment.
        arms: control and treatment.
        metric: one of `METRICS`.
        level: chance that the interval misses the truth.
        users: `[n_users + 1]`, who counts.
    """
    if min(int(users[outcome.users(arm)].sum()) for arm in arms) < SLICE_USERS:
        return None
    try:
        control, treatment = (per_visit(outcome, arm, metric, None, users) for arm in arms)
        effect = welch(control, treatment, level)
    except ExperimentError:
        return None
    return Lift(effect.lift, effect.lift_low, effect.lift_high)
