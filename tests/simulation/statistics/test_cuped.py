"""Adjusted metrics against regression, and against how much variance must go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from recsys.simulation.statistics.cuped import cuped
from recsys.simulation.statistics.effect import ExperimentError, linearise, welch


def arm(
    random: np.random.Generator, users: int, correlation: float, effect: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    before = random.normal(0, 1, users)
    return effect + correlation * before + math.sqrt(1 - correlation**2) * random.normal(0, 1, users), before


def test_the_difference_is_the_coefficient_of_a_regression_with_covariates() -> None:
    random = np.random.default_rng(0)
    covariates = [random.normal(size=(users, 2)) for users in (600, 900)]
    arms = [x @ [1.0, -0.5] + random.gamma(1, 1, len(x)) + shift for x, shift in zip(covariates, (0, 0.3), strict=True)]
    adjusted = cuped(*arms, *covariates)
    treated = np.repeat([0.0, 1.0], [600, 900])
    fitted = sm.OLS(np.concatenate(arms), np.column_stack([np.ones(1500), treated, np.concatenate(covariates)])).fit()
    assert adjusted.effect().difference == pytest.approx(fitted.params[1])
    assert adjusted.theta == pytest.approx(fitted.params[2:])
    error = math.hypot(adjusted.effect().control_error, adjusted.effect().treatment_error)
    assert error == pytest.approx(fitted.get_robustcov_results("HC1").bse[1], rel=0.02)


def test_a_covariate_takes_away_the_square_of_its_correlation() -> None:
    random = np.random.default_rng(1)
    (control, before), (treatment, before_t) = (arm(random, 20_000, 0.7, shift) for shift in (0.0, 0.1))
    adjusted = cuped(control, treatment, before, before_t)
    assert adjusted.reduction == pytest.approx(0.49, abs=0.02)
    ratio = adjusted.effect().treatment_error ** 2 / welch(control, treatment).treatment_error ** 2
    assert ratio == pytest.approx(1 - 0.49, abs=0.02)
    # The mean over both arms stays, so that a lift is one of the metric.
    assert np.concatenate([adjusted.control, adjusted.treatment]).mean() == pytest.approx(
        np.concatenate([control, treatment]).mean()
    )


def test_intervals_cover_the_effect_and_are_shorter() -> None:
    random, runs, level, covered, shorter = np.random.default_rng(2), 1500, 0.1, 0, 0
    for _ in range(runs):
        (control, before), (treatment, before_t) = (arm(random, 100, 0.6, shift) for shift in (0.0, 0.2))
        effect = cuped(control, treatment, before, before_t).effect(level)
        covered += effect.low <= 0.2 <= effect.high
        shorter += effect.high - effect.low < (raw := welch(control, treatment, level)).high - raw.low
    assert abs(covered / runs - (1 - level)) < 4 * math.sqrt(level * (1 - level) / runs)
    assert shorter > 0.99 * runs


def test_a_ratio_is_adjusted_through_its_linear_values() -> None:
    random = np.random.default_rng(3)
    taste, period = random.beta(2, 6, 3000), [random.poisson(8, 3000) + 1 for _ in range(2)]
    clicks = [random.binomial(shown, taste) for shown in period]
    half = np.arange(3000) < 1500
    now, before = ([linearise(clicks[time][who], period[time][who]) for who in (half, ~half)] for time in (0, 1))
    adjusted = cuped(*now, *before)
    correlation = stats.pearsonr(np.concatenate(now), np.concatenate(before)).statistic
    assert adjusted.reduction == pytest.approx(correlation**2, abs=0.005)
    assert adjusted.reduction > 0.1


def test_new_users_are_told_by_a_second_covariate() -> None:
    random = np.random.default_rng(4)
    (control, before), (treatment, before_t) = (arm(random, 4000, 0.8) for _ in range(2))
    columns = []
    for values, of_arm in ((before, control), (before_t, treatment)):
        new = random.random(len(values)) < 0.3
        of_arm += 2 * new
        columns.append(np.column_stack([np.where(new, values[~new].mean(), values), new]))
    both = cuped(control, treatment, *columns).reduction
    alone = cuped(control, treatment, *(c[:, 0] for c in columns)).reduction
    assert both > alone + 0.2


def test_a_covariate_that_tells_nothing_changes_nothing() -> None:
    control, treatment = [1.0, 2.0, 4.0], [2.0, 2.0, 5.0]
    adjusted = cuped(control, treatment, np.ones(3), np.ones(3))
    assert adjusted.control.tolist() == control and adjusted.treatment.tolist() == treatment
    assert adjusted.reduction == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ((np.ones(3), np.ones(2)), "treatment: covariates of shape"),
        ((np.array([1.0, np.nan, 2.0]), np.ones(3)), "control: user 1 .* lacks a covariate"),
        ((np.ones((3, 2)), np.ones(3)), "2 covariates for control, 1 for treatment"),
    ],
)
def test_covariates_that_do_not_fit_are_refused(covariates: tuple[np.ndarray, np.ndarray], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        cuped([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], *covariates)
