"""Effects against scipy and statsmodels, against the bootstrap, and against how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from recsys.simulation.statistics.effect import ExperimentError, linearise, ratio_effect, welch


def test_welch_agrees_with_scipy_and_statsmodels() -> None:
    random = np.random.default_rng(0)
    control, treatment = random.gamma(2, 1.0, 40), random.gamma(1, 2.5, 25)
    ours, theirs = welch(control, treatment, 0.1), stats.ttest_ind(treatment, control, equal_var=False)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    both = CompareMeans(DescrStatsW(treatment), DescrStatsW(control))
    for shift in (-0.3, 0.0, 0.2):
        _, greater, _ = both.ttest_ind(alternative="larger", usevar="unequal", value=shift)
        assert ours.p_greater(absolute=shift) == pytest.approx(greater)
        assert ours.p_less(absolute=shift) == pytest.approx(1 - greater)
    assert ours.p_value == pytest.approx(2 * min(ours.p_greater(), ours.p_less()))


def test_a_relative_bound_is_a_test_of_the_scaled_control() -> None:
    random = np.random.default_rng(1)
    control, treatment = random.gamma(2, 1.0, 30), random.gamma(2, 1.1, 50)
    for relative in (-0.2, -0.01, 0.1):
        theirs = stats.ttest_ind(treatment, (1 + relative) * control, equal_var=False, alternative="greater")
        assert welch(control, treatment).p_greater(relative=relative) == pytest.approx(theirs.pvalue)


def test_ends_of_the_lift_are_where_the_test_of_the_ratio_turns() -> None:
    """Fieller's ends solve `treatment - rho * control = q * error`, with the degrees of freedom of the difference."""
    random = np.random.default_rng(2)
    control, treatment = random.gamma(2, 1.0, 200), random.gamma(2, 1.2, 200)
    effect = welch(control, treatment, 0.05)
    freedom = (stats.ttest_ind(treatment, control, equal_var=False)).df
    quantile = stats.t.ppf(0.975, freedom)
    for end, sign in ((effect.lift_low, 1), (effect.lift_high, -1)):
        excess = treatment.mean() - (1 + end) * control.mean()
        error = math.hypot(effect.treatment_error, (1 + end) * effect.control_error)
        assert excess / error == pytest.approx(sign * quantile)
    assert effect.lift == pytest.approx(treatment.mean() / control.mean() - 1)


def test_lift_and_difference_never_contradict_each_other() -> None:
    random = np.random.default_rng(3)
    seen = set()
    for _ in range(300):
        effect = welch(random.exponential(1.0, 60), random.exponential(1.35, 60))
        assert (effect.lift_low > 0) == (effect.low > 0) and (effect.lift_high < 0) == (effect.high < 0)
        assert (effect.low > 0) == (effect.difference > 0 and effect.p_value < 0.05)
        seen.add(effect.low > 0)
    assert seen == {True, False}


def test_a_control_that_may_be_zero_has_any_lift() -> None:
    effect = welch([0.0, 0.0, 1.0, -1.0, 0.5], [1.0, 2.0, 1.5, 1.0, 1.2])
    assert (effect.lift_low, effect.lift_high) == (-math.inf, math.inf)
    assert math.isnan(welch([1.0, -1.0], [1.0, 2.0]).lift)


@pytest.mark.parametrize("relative", [-0.1, 0.0, 0.2])
def test_intervals_cover_the_truth_as_often_as_they_say(relative: float) -> None:
    random, runs, level = np.random.default_rng(4), 1500, 0.1
    covered = np.zeros(2)
    for _ in range(runs):
        effect = welch(random.gamma(4, 0.25, 150), (1 + relative) * random.gamma(4, 0.25, 100), level)
        covered += effect.low <= relative <= effect.high, effect.lift_low <= relative <= effect.lift_high
    assert np.abs(covered / runs - (1 - level)).max() < 4 * math.sqrt(level * (1 - level) / runs)


def sessions(random: np.random.Generator, users: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Clicks and impressions of users who differ in how much they come and in how they like what they see."""
    shown = 1 + random.negative_binomial(1, 0.2, users)
    return random.binomial(shown, random.beta(4 * rate, 4 * (1 - rate), users)).astype(float), shown.astype(float)


def test_a_linearised_ratio_has_the_mean_and_the_variance_of_the_delta_method() -> None:
    clicks, shown = sessions(np.random.default_rng(5), 500, 0.2)
    values = linearise(clicks, shown)
    assert values.mean() == pytest.approx(clicks.sum() / shown.sum())
    # The textbook form, by the gradient (1 / m_y, -m_x / m_y^2) and the covariance of numerator and denominator.
    gradient = np.array([1 / shown.mean(), -clicks.mean() / shown.mean() ** 2])
    assert values.var(ddof=1) == pytest.approx(gradient @ np.cov(clicks, shown) @ gradient)


def test_the_interval_of_a_ratio_agrees_with_the_bootstrap_over_users() -> None:
    random = np.random.default_rng(6)
    control, treatment = sessions(random, 800, 0.2), sessions(random, 900, 0.25)
    effect, ratios = ratio_effect(*control, *treatment, level=0.1), []
    for clicks, shown in (control, treatment):
        drawn = random.integers(0, len(clicks), (4000, len(clicks)))
        ratios.append(clicks[drawn].sum(1) / shown[drawn].sum(1))
    tolerance = 0.1 * math.hypot(effect.control_error, effect.treatment_error)
    low, high = np.quantile(ratios[1] - ratios[0], [0.05, 0.95])
    assert (effect.low, effect.high) == pytest.approx((low, high), abs=tolerance)
    lift_low, lift_high = np.quantile(ratios[1] / ratios[0] - 1, [0.05, 0.95])
    assert (effect.lift_low, effect.lift_high) == pytest.approx((lift_low, lift_high), abs=tolerance / effect.control)


def test_ratios_of_equal_arms_are_told_apart_as_seldom_as_said_and_rows_of_sessions_are_not() -> None:
    random, runs, level = np.random.default_rng(7), 1500, 0.1
    by_user = by_impression = 0
    for _ in range(runs):
        control, treatment = sessions(random, 200, 0.2), sessions(random, 200, 0.2)
        by_user += ratio_effect(*control, *treatment).p_value < level
        flat = [
            np.repeat([1.0, 0.0], [int(clicks.sum()), int((shown - clicks).sum())])
            for clicks, shown in (control, treatment)
        ]
        by_impression += welch(*flat).p_value < level
    assert abs(by_user / runs - level) < 4 * math.sqrt(level * (1 - level) / runs)
    assert by_impression / runs > 2 * level


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: welch([1.0], [1.0, 2.0]), "control: one value per user"),
        (lambda: welch([1.0, 2.0], [1.0, float("nan")]), r"treatment: user 1 .* nan; a user without events"),
        (lambda: welch([1.0, 1.0], [2.0, 2.0]), "the same value"),
        (lambda: welch([0.1] * 3, [0.1] * 10), "the same value"),  # whose mean is not 0.1 by the last bit
        (lambda: ratio_effect([0.3, 0.7], [3, 7], [0.9, 1.5, 0.3], [3, 5, 1]), "the same value"),
        (lambda: welch([1.0, 2.0], [2.0, 2.0], level=95), "chance of an error"),
        (lambda: linearise([1.0, 2.0], [1.0, 1.0, 1.0]), "2 numerators for 3 denominators"),
        (lambda: linearise([1.0, 2.0], [0.0, 0.0]), "sum must be positive"),
        (lambda: linearise([1.0, 2.0], [3.0, -1.0]), "must not be negative"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
    assert issubclass(ExperimentError, ValueError)
