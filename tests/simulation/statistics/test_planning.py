"""Plans: what was planned for is reached, and users who come back are counted once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower

from recsys.simulation.statistics.cuped import cuped
from recsys.simulation.statistics.effect import ExperimentError, linearise, ratio_effect, welch
from recsys.simulation.statistics.planning import (
    Users,
    achieved_power,
    duration,
    expected_unique_users,
    minimum_detectable_effect,
    required_users,
    unique_users,
)


@pytest.mark.parametrize(("power", "level", "share"), [(0.8, 0.05, 0.5), (0.9, 0.01, 0.2), (0.95, 0.1, 0.7)])
def test_users_are_those_of_the_textbook_and_of_statsmodels(power: float, level: float, share: float) -> None:
    users = required_users(0.05, 1.3, power=power, level=level, share=share)
    z = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)
    assert sum(users) == pytest.approx(z**2 * 1.3**2 / (0.05**2 * share * (1 - share)), rel=1e-3)
    assert users.treatment / sum(users) == pytest.approx(share, rel=1e-3)
    t = TTestIndPower().power(0.05 / 1.3, users.control, level, users.treatment / users.control)
    assert achieved_power(0.05, 1.3, users, level) == pytest.approx(t, abs=1e-3)
    assert achieved_power(-0.05, 1.3, users, level) == pytest.approx(power, abs=1e-3)
    assert minimum_detectable_effect(1.3, users, power=power, level=level) == pytest.approx(0.05, rel=1e-3)


def reached(power: float, found: int, runs: int) -> bool:
    return abs(found / runs - power) < 0.03


def test_the_planned_power_is_reached_for_means() -> None:
    random, runs = np.random.default_rng(0), 2500
    effect, sd = 0.15, 1.0
    users = required_users(effect, sd, power=0.8, share=0.3)
    found = sum(
        welch(random.gamma(1, sd, users.control), effect + random.gamma(1, sd, users.treatment)).p_value <= 0.05
        for _ in range(runs)
    )
    assert reached(0.8, found, runs)


def clicks(random: np.random.Generator, users: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    shown = 1.0 + random.poisson(4, users)
    return random.binomial(shown.astype(int), random.beta(10 * rate, 10 * (1 - rate), users)).astype(float), shown


def test_the_planned_power_is_reached_for_ratios_from_their_delta_variance() -> None:
    random, runs = np.random.default_rng(2), 2000
    # The rate moves the variance as well: what counts is the mean of both arms'.
    variances = [linearise(*clicks(random, 100_000, rate)).var() for rate in (0.2, 0.23)]
    users = required_users(0.03, math.sqrt(np.mean(variances)), power=0.7)
    found = sum(
        ratio_effect(*clicks(random, users.control, 0.2), *clicks(random, users.treatment, 0.23)).p_value <= 0.05
        for _ in range(runs)
    )
    assert reached(0.7, found, runs)


def test_a_covariate_saves_the_users_that_its_correlation_promises() -> None:
    random, runs, rho = np.random.default_rng(2), 1500, 0.7
    users = required_users(0.2, math.sqrt(1 - rho**2))
    assert sum(users) == pytest.approx((1 - rho**2) * sum(required_users(0.2, 1.0)), rel=0.01)
    found = 0
    for _ in range(runs):
        before = [random.normal(size=n) for n in users]
        now = [rho * x + math.sqrt(1 - rho**2) * random.normal(size=len(x)) for x in before]
        found += cuped(now[0], now[1] + 0.2, *before).effect().p_value <= 0.05
    assert reached(0.8, found, runs)


def test_users_who_come_back_are_counted_once() -> None:
    random = np.random.default_rng(3)
    who, when = random.integers(0, 50, 400), random.integers(0, 12, 400)
    curve = unique_users(who, when)
    assert curve.tolist() == [len(set(who[when <= day])) for day in range(int(when.max()) + 1)]
    assert unique_users([7, 7], [2, 5]).tolist() == [0, 0, 1, 1, 1, 1]


def test_expected_users_are_the_mean_of_simulated_ones() -> None:
    random, runs, days = np.random.default_rng(4), 300, 10
    chance = random.beta(0.5, 3, 400)
    visits = random.random((runs, days, 400)) < chance
    seen = np.logical_or.accumulate(visits, axis=1).sum(2)
    error = 4 * seen.std(0) / math.sqrt(runs)
    assert (np.abs(seen.mean(0) - expected_unique_users(chance, days)) < error).all()


def test_an_experiment_lasts_until_enough_different_users_came() -> None:
    curve = [90, 150, 190, 220]
    assert duration(Users(45, 45), curve) == 1
    assert duration(Users(46, 45), curve) == 2
    assert duration(Users(45, 45), curve, traffic=0.5) == 3
    with pytest.raises(ExperimentError, match="4 days bring 220 of 400 users"):
        duration(Users(200, 200), curve)
    # The same visits, were they new users each day, would promise an end too early.
    assert duration(Users(100, 100), np.cumsum([90, 90, 90])) < duration(Users(100, 100), curve)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: required_users(0.0, 1.0), "other than zero"),
        (lambda: required_users(0.1, -1.0), "sd is the standard deviation"),
        (lambda: required_users(0.1, 1.0, power=0.04), "power between the level and 1"),
        (lambda: required_users(0.1, 1.0, share=0.0), "share lies between"),
        (lambda: required_users(0.1, 1.0, level=5), "chance of an error"),
        (lambda: minimum_detectable_effect(1.0, Users(1, 10)), "two users at least"),
        (lambda: achieved_power(0.1, 1.0, Users(0, 10)), "two users at least"),
        (lambda: unique_users([1, 2], [0, -1]), "a day from 0"),
        (lambda: expected_unique_users([1.5], 3), "between 0 and 1"),
        (lambda: duration(Users(2, 2), [10], traffic=0), "traffic is the share"),
    ],
)
def test_plans_without_sense_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
