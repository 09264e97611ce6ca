"""Tests of a metric where nothing was changed: how often would they say that something was?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from recsys.evaluation.intervals import wilson
from recsys.simulation.statistics.effect import ExperimentError, check_level, check_spread, linearise, per_user

BUDGET_BYTES = 64 * 2**20
"""Most memory that assignments take at a time."""


@dataclass(frozen=True)
class Calibration:
    """What tests of equal arms said.

    Attributes:
        p_values: `[R]` float64, one per random assignment.
        rejected: share of them at or below the level.
        low: lower end of the 99 % interval of that share.
        high: upper end.
        level: what the share should be.
        uniform: p-value that the p-values are uniform (Kolmogorov-Smirnov).
    """

    p_values: NDArray[np.float64]
    rejected: float
    low: float
    high: float
    level: float
    uniform: float

    @property
    def calibrated(self) -> bool:
        """Whether the interval of the share holds the level."""
        return self.low <= self.level <= self.high


def aa_test(
    numerator: ArrayLike,
    denominator: ArrayLike | None = None,
    *,
    share: float = 0.5,
    assignments: int = 2000,
    level: float = 0.05,
    seed: int = 0,
) -> Calibration:
    """Assigns the users of a log at random to two arms, again and again, and tests the metric each time.

    The shares are those of `welch` and `ratio_effect` on these very users: where they are not the level, the metric has
    too few users for its tails, and needs a cap or a longer experiment. An error of the assignment or of the unit, such
    as rows that are sessions, shows only if the users given here are the units that will be assigned.

    Args:
        numerator: `[n]` metric, one value per user.
        denominator: `[n]`, for a ratio of sums; None: a mean.
        share: chance that a user is in the treatment.
        assignments: how many are drawn; 2,000 tell 5 % from 6.5 %.
        level: of the tests.
        seed: of the assignments.

    Raises:
        ExperimentError: a value is missing, lengths differ, all users have the same value, or an arm has no two users
            or no denominator.
        ValueError: share, assignments or level make no sense.

    Example:
        >>> aa_test(np.random.default_rng(0).normal(size=1000), assignments=500).calibrated
        True
    """
    above = per_user("numerator", numerator)
    below = np.ones_like(above) if denominator is None else per_user("denominator", denominator)
    check_level(level)
    check_spread(linearise(above, below))
    if not 0 < share < 1 or assignments < 1:
        raise ValueError(f"share lies between 0 and 1 and assignments are one at least, not {share} and {assignments}")
    # Every sum of an arm that the delta method needs, as one product with the assignments.
    sums = np.column_stack([np.ones_like(above), above, below, above**2, above * below, below**2])
    random = np.random.default_rng(seed)
    block = max(1, BUDGET_BYTES // (16 * len(above)))
    parts = []
    for start in range(0, assignments, block):
        treated = random.random((min(block, assignments - start), len(above))) < share
        treatment = treated.astype(np.float64) @ sums
        parts.append(_p_values(sums.sum(0) - treatment, treatment))
    p_values = np.concatenate(parts)
    found = np.array([(p_values <= level).sum()])
    low, high = (float(end[0]) for end in wilson(found, np.array([assignments]), 0.99))
    uniform = float(stats.kstest(p_values, "uniform").pvalue)
    return Calibration(p_values, float(found[0] / assignments), low, high, level, uniform)


def _p_values(control: NDArray[np.float64], treatment: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[R]` from sums `[R, 6]`: users, numerator, denominator, and their squares and product."""
    if min(control[:, 0].min(), treatment[:, 0].min()) < 2 or min(control[:, 2].min(), treatment[:, 2].min()) <= 0:
        raise ExperimentError("an assignment left an arm without two users or without a denominator; give more users")
    arms: list[NDArray[np.float64]] = []
    for n, above, below, squares, products, below_squares in (control.T, treatment.T):
        ratio = above / below
        spread = np.maximum(squares - 2 * ratio * products + ratio**2 * below_squares, 0.0)
        arms += [ratio, np.sqrt(spread / (n - 1)) / (below / n), n]
    return np.asarray(stats.ttest_ind_from_stats(*arms, equal_var=False).pvalue)
