"""Team draft against captains who choose one by one, and against users who click without looking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recsys.simulation.statistics.effect import ExperimentError
from recsys.simulation.statistics.interleaving import EMPTY, credit, interleaving_preference, team_draft


def captains(first: list[int], second: list[int], coins: list[bool]) -> tuple[list[int], list[int]]:
    """One list, as Radlinski et al. tell it; a captain without players lets the other choose."""
    items: list[int] = []
    teams: list[int] = []
    for coin in coins:
        options = [[item for item in ranked if item and item not in items] for ranked in (first, second)]
        a, b = teams.count(0), teams.count(1)
        team = 1 if b < a or (a == b and coin) else 0
        team = team if options[team] else 1 - team
        items.append(options[team][0] if options[team] else 0)
        teams.append(team if options[team] else EMPTY)
    return items, teams


@pytest.mark.parametrize("length", [1, 4, 9])
def test_lists_are_those_of_two_captains(length: int) -> None:
    random = np.random.default_rng(0)
    first, second = (np.argsort(random.random((200, 7)), axis=1)[:, :width] for width in (5, 4))  # 0: no item
    shown = team_draft(first, second, length, np.random.default_rng(1))
    again = np.random.default_rng(1)
    coins = np.stack([again.random(200) < 0.5 for _ in range(length)], axis=1)
    for row in range(200):
        expected = captains(first[row].tolist(), second[row].tolist(), coins[row].tolist())
        assert (shown.items[row].tolist(), shown.teams[row].tolist()) == expected


def test_no_item_is_shown_twice_and_teams_are_even() -> None:
    random = np.random.default_rng(2)
    first, second = (1 + np.argsort(random.random((500, 30)), axis=1)[:, :10] for _ in range(2))
    shown = team_draft(first, second, 10, random)
    assert all(len(set(row)) == 10 for row in shown.items.tolist())
    assert (shown.teams.sum(1) == 5).all()
    assert shown.teams[:, 0].mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(500))


@pytest.mark.parametrize("alike", [0, 3, 10])
def test_random_clicks_prefer_neither_whatever_the_position(alike: int) -> None:
    """Lists that share their first items, and clicks that fall with the position: no preference, and right p-values."""
    random, runs, level = np.random.default_rng(3), 600, 0.1
    first = np.arange(1, 11)
    second = np.concatenate([first[:alike], np.arange(101, 111 - alike)])
    chance = 0.6 / np.arange(1, 11)
    rejected, preferences = 0, []
    for _ in range(runs):
        shown = team_draft(np.tile(first, (300, 1)), np.tile(second, (300, 1)), 10, random)
        found = interleaving_preference(
            credit(shown.teams, random.random((300, 10)) < chance), np.arange(300) // 3, level
        )
        rejected += found.p_value <= level
        preferences.append(found.preference)
    assert abs(np.mean(preferences)) < 4 * np.std(preferences) / math.sqrt(runs)
    assert abs(rejected / runs - level) < 4 * math.sqrt(level * (1 - level) / runs)


def test_the_better_ranker_is_preferred() -> None:
    random = np.random.default_rng(4)
    relevance = random.random((2000, 20))
    better, worse = (
        np.argsort(-relevance - noise * random.normal(size=(2000, 20)), axis=1)[:, :10] for noise in (0.1, 1)
    )
    shown = team_draft(worse + 1, better + 1, 10, random)
    clicks = random.random((2000, 10)) < 0.3 * np.take_along_axis(relevance, shown.items - 1, 1)
    found = interleaving_preference(credit(shown.teams, clicks))
    assert found.low > 0 and found.wins > found.losses
    turned = interleaving_preference(credit(shown.teams, clicks)[:, ::-1])
    assert turned.preference == pytest.approx(-found.preference) and turned.p_value == pytest.approx(found.p_value)


def test_sessions_of_different_users_are_tested_as_independent_ones() -> None:
    random = np.random.default_rng(5)
    credits = random.poisson([0.5, 0.7], (400, 2))
    found = interleaving_preference(credits, level=0.1)
    outcome = np.sign(credits[:, 1] - credits[:, 0])
    expected = stats.ttest_1samp(outcome, 0)
    interval = expected.confidence_interval(0.9)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.preference == pytest.approx((found.wins - found.losses) / 400)
    twice = interleaving_preference(np.repeat(credits, 2, axis=0), np.repeat(np.arange(400), 2), level=0.1)
    assert twice.p_value == pytest.approx(found.p_value) and twice.users == 400 and twice.sessions == 800


def test_what_does_not_fit_is_refused() -> None:
    random = np.random.default_rng(6)
    with pytest.raises(ExperimentError, match="two lists for each session"):
        team_draft([[1, 2]], [[1, 2], [2, 1]], 2, random)
    with pytest.raises(ValueError, match="positive, not 0"):
        team_draft([[1, 2]], [[1, 2]], 0, random)
    with pytest.raises(ExperimentError, match="do not fit clicks"):
        credit([[0, 1]], [[1, 0, 0]])
    with pytest.raises(ExperimentError, match=r"\[sessions, 2\]"):
        interleaving_preference([1.0, 2.0])
    with pytest.raises(ExperimentError, match="3 users for 2 sessions"):
        interleaving_preference([[1, 2], [2, 1]], [1, 2, 3])
    with pytest.raises(ExperimentError, match="prefer alike"):
        interleaving_preference([[0, 0], [0, 0]])
    with pytest.raises(ExperimentError, match="prefer alike"):  # by 1 of 5, 2 of 10 and 3 of 15 sessions
        interleaving_preference([[0, 1], *[[0, 0]] * 4] * 6, [0] * 5 + [1] * 10 + [2] * 15)
