"""Intervals cover as often as they say, by users where users repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.simulation.off_policy.intervals import (
    MOST_UNITS,
    Bootstrap,
    EmpiricalBernstein,
    IntervalMethod,
    LowerBound,
    Normal,
    standard_error,
)
from recsys.simulation.off_policy.inverse_propensity import IPW, SelfNormalizedIPW
from recsys.simulation.off_policy.rounds import Rounds, rounds_of
from recsys.simulation.off_policy.terms import Terms
from tests.simulation.off_policy.worlds import world

WORLD = world()
LOGS, N = 300, 400


def drawn(seed: int) -> Rounds:
    log = WORLD.draw(N, seed)
    return rounds_of(log, WORLD.policy(log))


@pytest.fixture(scope="module")
def logs() -> list[Rounds]:
    return [drawn(seed) for seed in range(LOGS)]


@pytest.mark.parametrize("method", [Normal(), Bootstrap(200)], ids=["normal", "bootstrap"])
def test_intervals_miss_as_often_as_they_say(method: IntervalMethod, logs: list[Rounds]) -> None:
    missed = {"IPW": 0, "SNIPW": 0}
    for rounds in logs:
        terms = {"IPW": IPW()(rounds), "SNIPW": SelfNormalizedIPW()(rounds)}
        for name, (low, high) in method.intervals(terms, rounds.unit, 0.1).items():
            missed[name] += not low <= WORLD.value <= high
    for name, count in missed.items():
        # A tenth, within four standard errors and what skew and few resamples cost at this number of rounds.
        assert abs(count / LOGS - 0.1) < 4 * math.sqrt(0.09 / LOGS) + 0.02, name


@pytest.mark.parametrize("method", [Normal(), Bootstrap(200), EmpiricalBernstein()])
def test_lower_bounds_are_rarely_above_the_truth(method: LowerBound, logs: list[Rounds]) -> None:
    above = sum(method.lower(IPW()(rounds), rounds.unit, 0.1) > WORLD.value for rounds in logs)
    assert above / LOGS < 0.1 + 4 * math.sqrt(0.09 / LOGS)
    if not isinstance(method, EmpiricalBernstein):
        assert above / LOGS > 0.03


def test_the_bernstein_bound_by_hand_and_growing_with_the_log() -> None:
    random = np.random.default_rng(0)
    values = random.random(5000) * 3
    bound = EmpiricalBernstein(heights=3)
    said = math.log(2 * 3 / 0.05)
    by_hand = []
    for height in (1, 2, 4):
        cut = [min(value, height) for value in values]
        mean = sum(cut) / 5000
        variance = sum((value - mean) ** 2 for value in cut) / 4999
        by_hand.append(mean - math.sqrt(2 * variance * said / 5000) - 7 * height * said / (3 * 4999))
    unit = np.arange(5000)
    assert bound.lower(Terms(values), unit, 0.05) == pytest.approx(max(by_hand), abs=1e-12)
    few = bound.lower(Terms(values[:500]), unit[:500], 0.05)
    assert few < bound.lower(Terms(values), unit, 0.05) < values.mean()
    # Two equal rounds of a user tell no more than one.
    assert bound.lower(Terms(np.repeat(values, 2)), np.repeat(unit, 2), 0.05) == pytest.approx(max(by_hand), abs=1e-12)
    with pytest.raises(ValueError, match="not negative"):
        bound.lower(Terms(-values), unit, 0.05)
    with pytest.raises(ValueError, match="use the bootstrap"):
        bound.lower(Terms(values, values, values), unit, 0.05)
    with pytest.raises(ValueError, match="use the bootstrap"):  # such as the direct method
        bound.lower(Terms(values, pull=values - values.mean()), unit, 0.05)


def test_users_who_repeat_are_drawn_whole() -> None:
    """Every round eight times: the rounds of a user are worth one."""
    once = Terms(np.random.default_rng(0).random(300), np.random.default_rng(1).random(300), np.full(300, 2.0))
    often = Terms(*(np.repeat(column, 8) for column in once[:3] if column is not None))
    unit = np.arange(300)
    assert standard_error(often, np.repeat(unit, 8)) == pytest.approx(standard_error(once, unit))
    assert standard_error(often, np.arange(2400)) < 0.4 * standard_error(once, unit)
    few, many = (
        Bootstrap(300).intervals({"x": once}, unit, 0.1),
        Bootstrap(300).intervals({"x": often}, np.repeat(unit, 8), 0.1),
    )
    assert few["x"] == pytest.approx(many["x"])


def test_the_bootstrap_by_hand() -> None:
    terms = Terms(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0]), np.array([1.0, 2.0, 0.5]))
    unit = np.array([0, 0, 1])
    samples = Bootstrap(400, seed=3).samples({"x": terms}, unit)["x"]
    # Two users: both twice the first, both once, twice the second.
    ends = [1.5 + 1 / 3, 7 / 3 + 2 / 3.5, 4 + 1 / 0.5]
    assert sorted(set(samples.round(9))) == pytest.approx(ends)
    assert (samples.round(9) == round(ends[1], 9)).mean() == pytest.approx(0.5, abs=0.1)
    again = Bootstrap(400, seed=3).samples({"x": terms}, unit)["x"]
    assert (samples == again).all() and (samples != Bootstrap(400, seed=4).samples({"x": terms}, unit)["x"]).any()


def test_very_many_users_are_binned() -> None:
    n = 3 * MOST_UNITS
    values = np.random.default_rng(0).exponential(size=n)
    samples = Bootstrap(60).samples({"x": Terms(values)}, np.arange(n))["x"]
    assert samples.std() == pytest.approx(values.std() / math.sqrt(n), rel=0.4)
    assert abs(samples.mean() - values.mean()) < 4 * values.std() / math.sqrt(n)
