"""Two rankers in one list: each user sees both, and the clicks say whose items are liked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from recsys.simulation.statistics.effect import ROUNDING, ExperimentError, check_level, linearise

EMPTY = -1
"""Team of a slot that no list could fill."""


class Interleaved(NamedTuple):
    """Lists to show, and whose each slot is.

    Attributes:
        items: `[B, L]` int64; 0 where both lists were used up.
        teams: `[B, L]` int8: 0 of the first ranker, 1 of the second, `EMPTY` without an item.
    """

    items: NDArray[np.int64]
    teams: NDArray[np.int8]


@dataclass(frozen=True)
class Preference:
    """Which ranker users prefer, and how sure that is.

    Attributes:
        preference: share of sessions that the second ranker wins, less that of the first; ties count for neither.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided, of no preference.
        wins: sessions with more credit for the second ranker.
        losses: with more for the first.
        sessions: all, ties among them.
        users: who had them.
        level: chance that the interval misses the truth.
    """

    preference: float
    low: float
    high: float
    p_value: float
    wins: int
    losses: int
    sessions: int
    users: int
    level: float


def team_draft(first: ArrayLike, second: ArrayLike, length: int, random: np.random.Generator) -> Interleaved:
    """Interleaves two lists as two captains choose their teams.

    The team that has fewer items is next, by a coin where both have as many, and takes the best item of its list that
    is not shown yet. Who clicks without looking prefers neither ranker, whatever the position.

    Args:
        first: `[B, k]` items of the first ranker, best first; 0 is no item.
        second: `[B, m]` of the second ranker.
        length: L, slots of the list that is shown.
        random: throws the coins, one for each list and slot.

    Raises:
        ExperimentError: the lists are not of the same sessions.
        ValueError: the length is not positive.

    Source:
        Radlinski, Kurup and Joachims, "How Does Clickthrough Data Reflect Retrieval Quality?", CIKM 2008.

    Example:
        >>> shown = team_draft([[1, 2, 3]], [[1, 4, 5]], 4, np.random.default_rng(0))
        >>> shown.items, shown.teams
        (array([[1, 4, 5, 2]]), array([[0, 1, 1, 0]], dtype=int8))
    """
    lists = [np.asarray(ranked, dtype=np.int64) for ranked in (first, second)]
    if any(ranked.ndim != 2 for ranked in lists) or len(lists[0]) != len(lists[1]):
        raise ExperimentError(
            f"two lists for each session are needed, not shapes {lists[0].shape} and {lists[1].shape}"
        )
    if length < 1:
        raise ValueError(f"length is the number of slots shown, positive, not {length}")
    sessions = np.arange(len(lists[0]))
    free = [ranked != 0 for ranked in lists]
    picks = np.zeros((2, len(sessions)), dtype=np.int64)
    items, teams = np.zeros((len(sessions), length), np.int64), np.full((len(sessions), length), EMPTY, np.int8)
    for slot in range(length):
        coin = random.random(len(sessions)) < 0.5
        second_is_next = (picks[1] < picks[0]) | ((picks[1] == picks[0]) & coin)
        left = [of_team.any(1) for of_team in free]
        second_picks = left[1] & (second_is_next | ~left[0])
        best = [ranked[sessions, of_team.argmax(1)] for ranked, of_team in zip(lists, free, strict=True)]
        some = left[0] | left[1]
        chosen = np.where(some, np.where(second_picks, best[1], best[0]), 0)
        items[:, slot], teams[:, slot] = chosen, np.where(some, second_picks, EMPTY)
        picks += some & np.stack([~second_picks, second_picks])
        for ranked, of_team in zip(lists, free, strict=True):
            of_team &= ranked != chosen[:, None]
    return Interleaved(items, teams)


def credit(teams: ArrayLike, clicks: ArrayLike) -> NDArray[np.float64]:
    """`[B, 2]` what each ranker earned in each session.

    Args:
        teams: `[B, L]` of `team_draft`.
        clicks: `[B, L]` clicks on the slots, or what else is worth something there.

    Raises:
        ExperimentError: the shapes differ.

    Example:
        >>> credit([[0, 1, 0, -1]], [[1, 1, 1, 0]])
        array([[2., 1.]])
    """
    whose, worth = np.asarray(teams), np.asarray(clicks, dtype=np.float64)
    if whose.shape != worth.shape or whose.ndim != 2:
        raise ExperimentError(f"teams of shape {whose.shape} do not fit clicks of shape {worth.shape}")
    return np.stack([np.where(whose == team, worth, 0.0).sum(1) for team in (0, 1)], axis=1)


def interleaving_preference(credits: ArrayLike, users: ArrayLike | None = None, level: float = 0.05) -> Preference:
    """Tests whether one ranker wins more sessions than the other, by users.

    Sessions of one user are not independent: the share is a ratio of sums over users, with the variance of the delta
    method.

    Args:
        credits: `[B, 2]` of `credit`.
        users: `[B]` whose session it was; None: each is of another user.
        level: chance that the interval misses the truth.

    Raises:
        ExperimentError: shapes differ, there are fewer than two users, or all users prefer alike.

    Source:
        Chapelle, Joachims, Radlinski and Yue, "Large-Scale Validation and Analysis of Interleaved Search Evaluation",
        TOIS 2012.

    Example:
        >>> found = interleaving_preference([[0, 1], [1, 3], [1, 0], [1, 1]])
        >>> found.preference, found.wins, found.losses, found.sessions
        (0.25, 2, 1, 4)
    """
    check_level(level)
    earned = np.asarray(credits, dtype=np.float64)
    if earned.ndim != 2 or earned.shape[1] != 2:
        raise ExperimentError(f"credits are [sessions, 2], not of shape {earned.shape}")
    who = np.arange(len(earned)) if users is None else np.asarray(users)
    if who.shape != earned.shape[:1]:
        raise ExperimentError(f"{len(who)} users for {len(earned)} sessions")
    outcome = np.sign(earned[:, 1] - earned[:, 0])
    owner = np.unique(who, return_inverse=True)[1]
    values = linearise(np.bincount(owner, outcome), np.bincount(owner))
    spread = float(values.std(ddof=1))
    error = spread / len(values) ** 0.5
    if not spread > ROUNDING:
        raise ExperimentError(
            "all users prefer alike, so that chance cannot be told from preference; give more sessions"
        )
    mean, freedom = float(values.mean()), len(values) - 1
    half = -float(stdtrit(freedom, level / 2)) * error
    p_value = float(2 * stdtr(freedom, -abs(mean) / error))
    wins, losses = int((outcome > 0).sum()), int((outcome < 0).sum())
    return Preference(mean, mean - half, mean + half, p_value, wins, losses, len(earned), len(values), level)
