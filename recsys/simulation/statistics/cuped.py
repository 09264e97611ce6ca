"""Variance that was known before the experiment, taken out of its metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.simulation.statistics.effect import Effect, ExperimentError, per_user, welch


@dataclass(frozen=True)
class Adjusted:
    """A metric less what covariates tell of it.

    Attributes:
        control: `[n]` adjusted values of the control.
        treatment: `[m]` of the treatment.
        theta: `[P]` coefficients of the covariates.
        reduction: share of the variance within arms that went away: the squared correlation of metric and covariates.
    """

    control: NDArray[np.float64]
    treatment: NDArray[np.float64]
    theta: NDArray[np.float64]
    reduction: float

    def effect(self, level: float = 0.05) -> Effect:
        """Welch's test of the adjusted values."""
        return welch(self.control, self.treatment, level)


def cuped(
    control: ArrayLike, treatment: ArrayLike, control_covariates: ArrayLike, treatment_covariates: ArrayLike
) -> Adjusted:
    """Takes out of a metric what covariates from before the assignment tell of it (CUPED).

    `y - theta (x - mean(x))`, with one theta for both arms, by least squares within the arms. The difference of the
    adjusted means is the coefficient of the arm in a regression with the covariates. No effect is lost, because
    assignment knew nothing of what was before. For a ratio give `linearise` of metric and covariate, arm by arm.

    Args:
        control: `[n]` values of the metric.
        treatment: `[m]`.
        control_covariates: `[n]`, or `[n, P]` for several; measured before the user was assigned.
        treatment_covariates: `[m]`, or `[m, P]`.

    Raises:
        ExperimentError: lengths differ or a value is missing. For users who were not there before, give the mean as
            their covariate, and a second covariate that is 1 for them and 0 for the others.

    Source:
        Deng, Xu, Kohavi and Walker, "Improving the Sensitivity of Online Controlled Experiments by Utilizing
        Pre-Experiment Data", WSDM 2013.

    Example:
        >>> adjusted = cuped([1.0, 2.0, 3.0], [2.1, 3.1, 3.9], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
        >>> round(adjusted.reduction, 3), round(adjusted.effect().difference, 3)
        (0.995, 1.033)
    """
    arms = [per_user("control", control), per_user("treatment", treatment)]
    covariates = [
        _covariates(name, values, len(arm))
        for name, values, arm in zip(
            ("control", "treatment"), (control_covariates, treatment_covariates), arms, strict=True
        )
    ]
    if covariates[0].shape[1] != covariates[1].shape[1]:
        raise ExperimentError(
            f"{covariates[0].shape[1]} covariates for control, {covariates[1].shape[1]} for treatment"
        )
    y = np.concatenate([arm - arm.mean() for arm in arms])
    x = np.concatenate([of_arm - of_arm.mean(0) for of_arm in covariates])
    theta = np.asarray(np.linalg.lstsq(x, y, rcond=None)[0])
    centre = np.concatenate(covariates).mean(0)
    adjusted = [arm - (of_arm - centre) @ theta for arm, of_arm in zip(arms, covariates, strict=True)]
    before = float(y @ y)
    left = float(((y - x @ theta) ** 2).sum())
    return Adjusted(adjusted[0], adjusted[1], theta, 1 - left / before if before else 0.0)


def _covariates(name: str, values: ArrayLike, users: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != users:
        raise ExperimentError(
            f"{name}: covariates of shape {array.shape} for {users} users; give [users] or [users, P]"
        )
    missing = ~np.isfinite(array).all(1)
    if missing.any():
        raise ExperimentError(
            f"{name}: user {int(np.flatnonzero(missing)[0])} (counted from 0) lacks a covariate; give the mean "
            "instead, and a second covariate that is 1 for such users"
        )
    return array
