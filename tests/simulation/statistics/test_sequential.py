"""Confidence sequences against numerical mixtures, and against how often anybody who keeps looking is misled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from recsys.simulation.statistics.effect import ExperimentError, welch
from recsys.simulation.statistics.sequential import (
    RunningSums,
    SequentialEffect,
    confidence_sequence,
    log_likelihood,
    mixture_variance,
    running_difference,
)


@pytest.mark.parametrize(("d", "v", "m"), [(0.3, 0.02, 0.1), (-0.1, 0.5, 0.01), (0.0, 0.2, 0.3)])
def test_the_likelihood_ratio_is_the_mixture_over_effects(d: float, v: float, m: float) -> None:
    def at(effect: float) -> float:
        ratio = stats.norm.pdf(d, effect, math.sqrt(v)) / stats.norm.pdf(d, 0, math.sqrt(v))
        return float(ratio * stats.norm.pdf(effect, 0, math.sqrt(m)))

    reach = 12 * math.sqrt(m)
    expected = integrate.quad(at, -reach, reach, points=[0.0, d])[0]
    assert math.exp(float(log_likelihood(np.asarray(d), np.asarray(v), m))) == pytest.approx(expected, rel=1e-6)


def test_ends_are_the_effects_whose_p_value_is_the_level() -> None:
    difference, variance, level = np.array([0.4, 0.2, -0.1]), np.array([0.3, 0.05, 0.01]), 0.1
    found = confidence_sequence(difference, variance, 0.05, level)
    for end in (found.low, found.high):
        assert np.exp(-log_likelihood(difference - end, variance, 0.05)) == pytest.approx(level)


def test_the_mixture_makes_the_planned_look_tightest() -> None:
    for planned, level in ((0.02, 0.05), (3.0, 0.01)):

        def width(log_mixture: float, planned: float = planned, level: float = level) -> float:
            found = confidence_sequence([0.0], [planned], math.exp(log_mixture), level)
            return float(found.high[0])

        best = optimize.minimize_scalar(width, bracket=(math.log(planned), math.log(planned) + 3))
        assert mixture_variance(planned, level) == pytest.approx(math.exp(best.x), rel=1e-3)


def test_running_sums_are_those_of_a_loop() -> None:
    random = np.random.default_rng(0)
    values, looks = random.gamma(1, 2, (3, 50)), [1, 2, 10, 50]
    sums = RunningSums.of(values, looks)
    for row in range(3):
        for place, look in enumerate(looks):
            seen = values[row, :look]
            assert sums.mean()[row, place] == pytest.approx(seen.mean())
            if look > 1:
                assert sums.variance()[row, place] == pytest.approx(seen.var(ddof=1) / look)
    assert np.isinf(sums.variance()[:, 0]).all()


def test_nothing_is_said_where_nothing_is_known() -> None:
    control, treatment = (
        RunningSums.of([0.0, 0.0, 0.0, 1.0], [1, 3, 4]),
        RunningSums.of([0.0, 0.0, 0.0, 2.0], [1, 3, 4]),
    )
    found = confidence_sequence(*running_difference(control, treatment), 0.1)
    assert found.low[:2].tolist() == [-math.inf] * 2 and found.p_value[:2].tolist() == [1.0, 1.0]
    assert np.isfinite(found.low[2])
    before = confidence_sequence([math.nan, 0.3], [math.nan, 0.01], 0.1)
    assert (before.low[0], before.high[0], before.p_value[0]) == (-math.inf, math.inf, 1.0) and before.p_value[1] < 0.1


@pytest.mark.parametrize("law", ["normal", "clicks"])
def test_who_looks_at_every_user_is_misled_as_seldom_as_said(law: str) -> None:
    """A look after each pair of users from the hundredth on: a plain test is below .05 at one of them far too often."""
    random, runs, users, level = np.random.default_rng(1), 1500, 2000, 0.05
    draws = random.normal(1, 1, (2, runs, users)) if law == "normal" else random.poisson(0.3, (2, runs, users)) ** 2.0
    looks = np.arange(100, users + 1)
    difference, variance = running_difference(*(RunningSums.of(arm, looks) for arm in draws))
    mixture = mixture_variance(float(2 * draws.var() / users), level)
    found = confidence_sequence(difference, variance, mixture, level)
    ever = (found.p_value[:, -1] <= level).mean()
    assert 0.005 < ever < level + 3 * math.sqrt(level * (1 - level) / runs)
    covered = ((found.low <= 0) & (found.high >= 0)).all(1).mean()
    assert covered == pytest.approx(1 - ever)
    naive = (np.abs(difference) > 1.96 * np.sqrt(variance)).any(1).mean()
    assert naive > 0.25
    last = (np.abs(difference[:, -1]) > 1.96 * np.sqrt(variance[:, -1])).mean()
    assert abs(last - level) < 4 * math.sqrt(level * (1 - level) / runs)


def test_means_per_day_of_users_who_come_back_may_be_looked_at_daily() -> None:
    random, runs, users, days = np.random.default_rng(2), 1500, 150, 28
    daily = random.gamma(1, 1, (2, runs, users, 1)) + random.normal(0, 1, (2, runs, users, days))
    mean = daily.cumsum(-1) / np.arange(1, days + 1)
    d = mean[1].mean(1) - mean[0].mean(1)
    v = (mean.var(2, ddof=1) / users).sum(0)
    found = confidence_sequence(d, v, mixture_variance(float(v[:, -1].mean())))
    assert (found.p_value[:, -1] <= 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_an_effect_is_found_and_p_values_never_rise() -> None:
    random, runs, users = np.random.default_rng(3), 300, 3000
    looks = np.arange(100, users + 1, 50)
    arms = [RunningSums.of(random.normal(shift, 1, (runs, users)), looks) for shift in (0.0, 0.12)]
    found = confidence_sequence(*running_difference(*arms), mixture_variance(2 / users))
    assert (np.diff(found.p_value, axis=1) <= 0).all()
    assert (found.p_value[:, -1] <= 0.05).mean() > 0.9
    covered = ((found.low <= 0.12) & (found.high >= 0.12)).all(1).mean()
    assert covered > 0.95 - 3 * math.sqrt(0.05 * 0.95 / runs)


def test_one_look_says_what_the_sequence_says() -> None:
    random = np.random.default_rng(4)
    control, treatment = random.normal(1, 1, 400), random.normal(1.3, 1, 400)
    mixture = mixture_variance(2 / 400)
    looks = [RunningSums.of(arm, [400]) for arm in (control, treatment)]
    sequence = confidence_sequence(*running_difference(*looks), mixture)
    one = SequentialEffect(welch(control, treatment), mixture)
    assert one.interval() == pytest.approx((sequence.low[0], sequence.high[0]))
    assert one.p_greater() == pytest.approx(sequence.p_value[0] / 2, rel=0.01) and one.p_less() == 1.0
    scaled = SequentialEffect(welch(0.9 * control, treatment), mixture)
    assert one.p_greater(relative=-0.1) == pytest.approx(scaled.p_greater())
    low, _ = one.interval(0.01)
    assert one.p_greater(absolute=low) == pytest.approx(0.005, rel=0.01)


def test_the_one_sided_likelihood_ratio_is_the_mixture_over_effects_of_its_side() -> None:
    random = np.random.default_rng(5)
    effect, m = welch(random.normal(1, 1, 40), random.normal(1.25, 1, 40)), 0.05
    v = effect.control_error**2 + effect.treatment_error**2
    assert 0 < effect.p_value < 0.9
    for found, d in (
        ((one := SequentialEffect(effect, m)).p_greater(), effect.difference),
        (one.p_less(), -effect.difference),
    ):

        def at(delta: float, d: float = d) -> float:
            return float(math.exp(d * delta / v - delta**2 / (2 * v)) * 2 * stats.norm.pdf(delta, 0, math.sqrt(m)))

        expected = integrate.quad(at, 0, 12 * math.sqrt(m))[0]
        assert found == pytest.approx(min(1.0, 1 / expected))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="variance of the mixture"):
        confidence_sequence([0.0], [1.0], 0.0)
    with pytest.raises(ValueError, match="planned variance"):
        mixture_variance(0.0)
    with pytest.raises(ExperimentError, match="between 1 and 3 users"):
        RunningSums.of([1.0, 2.0, 3.0], [4])
    with pytest.raises(ExperimentError, match="more users than the one before"):
        RunningSums.of([1.0, 2.0, 3.0], [2, 2])
    with pytest.raises(ExperimentError, match="a finite value"):
        RunningSums.of([1.0, math.nan, 3.0], [2, 3])
