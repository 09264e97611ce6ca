"""What estimators of slates read of a policy: weights and predictions of every position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import Policy
from recsys.simulation.off_policy.ranked_policy import RankedPolicy, places_of
from recsys.simulation.off_policy.reward_models import folds_of, shrunk_means
from recsys.simulation.off_policy.rounds import BUDGET_BYTES, check_probabilities


@dataclass(frozen=True)
class SlateRounds:
    """S slates of at most K positions; where a slate has none, weights are 1 and all else is 0.

    Attributes:
        reward: `[S, K]` float64, times the weight of the position.
        weight: `[S, K]` float64, of the action given those above it.
        marginal: `[S, K]` float64, of the action at its position whatever stands above; None: the policy fills slates
            from the top, and its marginals are not known.
        predicted: `[S, K]` float64, reward of the logged action and of all positions below it, as a model predicts.
        expected: `[S, K]` float64, mean of that over the actions of the policy at the position.
        unit: `[S]` int64, code of the user.
    """

    reward: NDArray[np.float64]
    weight: NDArray[np.float64]
    marginal: NDArray[np.float64] | None
    predicted: NDArray[np.float64]
    expected: NDArray[np.float64]
    unit: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.reward)


def slate_rounds(
    log: BanditLog,
    policy: Policy,
    position_weights: Sequence[float] | None = None,
    shrinkage: float = 20.0,
    folds: int = 5,
    seed: int = 0,
    budget: int = BUDGET_BYTES,
) -> SlateRounds:
    """Reads a policy once, position by position from the last one up.

    The model of a position is the shrunk mean by action of its reward plus what is expected below it (fitted Q
    evaluation). It is fitted to other users, and so are the models below whose expectations it learns.

    Args:
        log: a log with slates.
        policy: what it says of a row is meant given the actions that stand above in the logged slate; one that
            looks at the position alone fills positions independently.
        position_weights: `[K]`, what a reward counts at each position, in ascending order; None: 1 each.
        shrinkage: rounds that the mean of a position counts for.
        folds: of users.
        seed: of the draw of the folds.
        budget: bytes of a block of probabilities.

    Raises:
        LogError: the log has no slates, or fewer users than folds.
    """
    place = places_of(log)
    slates, positions = place.shape
    value = weighted_rewards(log, position_weights)
    fold = folds_of(log, folds, seed)
    chance, predicted, expected = (np.zeros(len(log)) for _ in range(3))
    # What each fold's models expect below, of all slates: what a user earned must not reach his own through others.
    below = np.zeros((folds, slates))
    for position in range(positions - 1, -1, -1):
        slate = np.flatnonzero(place[:, position] >= 0)
        rows = place[slate, position]
        to_go = value[rows] + below[:, slate]
        means = np.zeros((folds, log.n_actions))
        for number in range(folds):
            other = fold[rows] != number
            if other.any():
                means[number] = shrunk_means(log, rows[other], to_go[number, other], shrinkage)[position]
        chance[rows], below[:, slate] = _read(log, policy, means, rows, budget)
        predicted[rows] = means[fold[rows], log.action[rows]]
        expected[rows] = below[fold[rows], slate]
    at = place.clip(min=0)
    shown = place >= 0
    marginal = None
    if not isinstance(policy, RankedPolicy):
        marginal = np.where(shown, (chance / (log.propensity if log.marginal is None else log.marginal))[at], 1.0)
    return SlateRounds(
        reward=np.where(shown, value[at], 0.0),
        weight=np.where(shown, (chance / log.propensity)[at], 1.0),
        marginal=marginal,
        predicted=np.where(shown, predicted[at], 0.0),
        expected=np.where(shown, expected[at], 0.0),
        unit=log.unit[place.max(1)],
    )


def weighted_rewards(log: BanditLog, position_weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """`[N]` rewards times the weight of their position.

    Raises:
        LogError: a position has no weight.
    """
    if position_weights is None:
        return log.reward
    if len(position_weights) != len(log.positions):
        raise LogError(f"{log.origin}: {len(log.positions)} positions need a weight each, not {len(position_weights)}")
    return log.reward * np.asarray(position_weights, dtype=np.float64)[log.position]


def observed_slates(
    log: BanditLog, position_weights: Sequence[float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`[S]` logged reward of each slate, and `[S]` its user."""
    place = places_of(log)
    value = weighted_rewards(log, position_weights)
    return np.where(place >= 0, value[place.clip(min=0)], 0.0).sum(1), log.unit[place.max(1)]


@torch.no_grad()
def _read(
    log: BanditLog, policy: Policy, means: NDArray[np.float64], rows: NDArray[np.int64], budget: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`[n]` chances of the logged actions of rows, and `[folds, n]` what the policy earns by means `[folds, A]`."""
    chance, expected = np.empty(len(rows)), np.empty((len(means), len(rows)))
    step = max(1, budget // (8 * policy.width(log)))
    for first in range(0, len(rows), step):
        here = slice(first, first + step)
        block = policy.block(log, rows[here])
        check_probabilities(block, rows[here], log)
        chance[here] = block.of(torch.from_numpy(log.action[rows[here]])).double().numpy()
        tables = torch.from_numpy(means).to(block.probability.dtype)
        if block.actions is None:
            expected[:, here] = (tables @ block.probability.T).double().numpy()
            continue
        for number, table in enumerate(tables):
            of_action = table[block.actions.clamp(min=0)]
            expected[number, here] = torch.linalg.vecdot(block.probability, of_action).double().numpy()
    return chance, expected
