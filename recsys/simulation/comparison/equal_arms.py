"""How often an experiment finds a difference where there is none: equal arms, assigned again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from recsys.evaluation.intervals import wilson
from recsys.simulation.comparison.looks import FIRST_USERS
from recsys.simulation.statistics.effect import linearise
from recsys.simulation.statistics.sequential import RunningSums, confidence_sequence, running_difference
from recsys.simulation.world.outcome import Outcome

BUDGET_BYTES = 64 * 2**20
"""Most memory that assignments take at a time."""


@dataclass(frozen=True)
class Alarms:
    """Share of the assignments of equal arms in which a difference was found.

    Attributes:
        share: of them.
        low: lower end of its 99 % interval.
        high: upper end.
    """

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class EqualArms:
    """False alarms of three ways to look, at one level.

    Attributes:
        assignments: how many.
        level: what the share should be, or at most be.
        at_end: who looks once, at the planned end.
        anytime: who looks every day at intervals that hold on all days.
        naive: who looks every day at intervals that are made for one day.
    """

    assignments: int
    level: float
    at_end: Alarms
    anytime: Alarms
    naive: Alarms


def equal_arms(
    outcome: Outcome,
    metric: str,
    mixture: float,
    *,
    share: float,
    level: float = 0.05,
    assignments: int = 1000,
    seed: int = 0,
) -> EqualArms:
    """Splits users who all had the same policy, and tests the metric per visit as an experiment does.

    Ratios are made linear and adjusted by their pre-period for all users at once; doing so arm by arm differs by what
    vanishes with the number of users.

    Args:
        outcome: of one arm, with a pre-period.
        metric: one of `METRICS`.
        mixture: as the experiment has it.
        share: of the users in each of the two arms, at most half.
        level: of the tests.
        assignments: how many are drawn.
        seed: of the draws.
    """
    arm = outcome.arms[0]
    n = len(outcome.arm)
    days = np.arange(1, outcome.days + 1)
    came = np.zeros((n, len(days)))
    values = np.zeros((n, len(days)))
    for column, day in enumerate(days):
        users = outcome.users(arm, int(day))
        came[users, column] = 1.0
        if len(users) < FIRST_USERS:
            continue
        value = linearise(outcome.of(arm, metric, int(day)), outcome.of(arm, "sessions", int(day)))
        before = linearise(outcome.covariate(arm, metric, int(day)), outcome.covariate(arm, "sessions", int(day)))
        centred = before - before.mean()
        spread = float(centred @ centred)
        values[users, column] = value - (float(centred @ value) / spread if spread else 0.0) * centred
    sums = np.concatenate([came, values, values**2], axis=1)
    random = np.random.default_rng(seed)
    step = max(1, BUDGET_BYTES // (24 * n))
    parts = []
    for start in range(0, assignments, step):
        draw = random.random((min(step, assignments - start), n))
        parts.append([_sums(half, sums) for half in (draw < share, draw >= 1 - share)])
    control, treatment = (RunningSums(*map(np.concatenate, zip(*arm, strict=True))) for arm in zip(*parts, strict=True))
    difference, variance = running_difference(control, treatment)
    early = np.minimum(control.n, treatment.n) < FIRST_USERS
    variance = np.where(early, np.inf, variance)
    ever = confidence_sequence(np.where(early, 0.0, difference), variance, mixture, level).p_value[:, -1] <= level
    at_look = np.abs(difference) > stats.norm.isf(level / 2) * np.sqrt(variance)
    return EqualArms(assignments, level, _alarms(at_look[:, -1]), _alarms(ever), _alarms(at_look.any(1)))


def _sums(chosen: np.ndarray, sums: np.ndarray) -> RunningSums:
    n, total, squares = np.split(chosen.astype(np.float64) @ sums, 3, axis=1)
    return RunningSums(np.maximum(n, 1.0), total, squares)


def _alarms(found: np.ndarray) -> Alarms:
    low, high = (float(end[0]) for end in wilson(np.array([found.sum()]), np.array([len(found)]), 0.99))
    return Alarms(float(found.mean()), low, high)
