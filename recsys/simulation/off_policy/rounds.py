"""What estimators read of a policy: weights and predictions of each round, computed a block of rounds at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.learned import Learned
from recsys.simulation.off_policy.policies import Block, Policy, PolicyError
from recsys.simulation.off_policy.reward_models import CrossFitted

BUDGET_BYTES = 8 * 2**20
"""Size of a block of probabilities: rounds x actions x 8 bytes; one round at least. A few such blocks are held."""
_SUM = 1e-3


@dataclass(frozen=True)
class Rounds:
    """N rounds as an estimator sees them.

    Attributes:
        reward: `[N]` float64.
        weight: `[N]` float64, probability of the logged action under the policy over its propensity.
        predicted: `[N]` float64, reward that a model predicts for the logged action; 0 without a model.
        expected: `[N]` float64, mean prediction over the actions of the policy; 0 without a model.
        unit: `[N]` int64, code of the user.
        unsupported: mean probability that the policy gives to actions that were never logged at the position.
        cluster_weight: `[N]` float64, the weight of the cluster of the logged action; None: there are no clusters.
        cluster_pull: `[N]` float64, how far the weight of each round pulls the mean of `cluster_weight * reward`; None:
            the weights of clusters are not computed from the rounds.
        learned: what the model learned from each round; None: nothing is predicted, or by a model that knows no round.
    """

    reward: NDArray[np.float64]
    weight: NDArray[np.float64]
    predicted: NDArray[np.float64]
    expected: NDArray[np.float64]
    unit: NDArray[np.int64]
    unsupported: float = 0.0
    cluster_weight: NDArray[np.float64] | None = None
    cluster_pull: NDArray[np.float64] | None = None
    learned: Learned | None = None

    def pull(self, weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """`[N]` pulls, for `Terms`, of the model in `mean(expected - weights * predicted)`, with weights `[N]`."""
        return None if self.learned is None else self.learned.pull(weights)

    def __len__(self) -> int:
        return len(self.reward)


@torch.no_grad()
def rounds_of(log: BanditLog, policy: Policy, rewards: CrossFitted | None = None, budget: int = BUDGET_BYTES) -> Rounds:
    """Reads a policy once, round by round.

    Args:
        log: the log.
        policy: the policy that is evaluated.
        rewards: predicts rewards; None: nothing is predicted.
        budget: bytes of a block of probabilities.

    Raises:
        PolicyError: the policy gives no probabilities for a round.
    """
    n = len(log)
    logged_at = torch.from_numpy(log.logged_at())
    everything_logged = bool(logged_at.all())
    chosen, expected, predicted, unsupported = (np.zeros(n) for _ in range(4))
    learned = None if rewards is None else Learned(log, rewards)
    # Rounds of one fold are neighbours, so that a block is predicted by one model.
    order = np.arange(n) if rewards is None else np.argsort(rewards.fold, kind="stable")
    step = max(1, budget // (8 * policy.width(log)))
    for first in range(0, n, step):
        rounds = order[first : first + step]
        block = policy.block(log, rounds)
        check_probabilities(block, rounds, log)
        action = torch.from_numpy(log.action[rounds])
        chosen[rounds] = block.of(action).double().numpy()
        if not everything_logged or block.actions is not None:
            position = torch.from_numpy(log.position[rounds])
            unsupported[rounds] = _never_logged(block, logged_at, position).double().numpy()
        if rewards is not None and learned is not None:
            learned.add(rounds, block)
            found = rewards.predict(log, rounds, block)
            expected[rounds] = torch.linalg.vecdot(block.probability, found).double().numpy()
            own = Block(torch.ones(len(rounds), 1, dtype=torch.float64), action[:, None])
            predicted[rounds] = rewards.predict(log, rounds, own).squeeze(1).numpy()
    return Rounds(
        reward=log.reward,
        weight=chosen / log.propensity,
        predicted=predicted,
        expected=expected,
        unit=log.unit,
        unsupported=float(unsupported.mean()),
        learned=learned,
    )


def _never_logged(block: Block, logged_at: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    if block.actions is None:
        return torch.where(logged_at[position], 0, block.probability).sum(1)
    logged = logged_at[position[:, None], block.actions.clamp(min=0)] & (block.actions >= 0)
    return torch.where(logged, 0, block.probability).sum(1)


def check_probabilities(block: Block, rounds: NDArray[np.int64], log: BanditLog) -> None:
    """Sees to it that a block of rounds `[b]` holds distributions.

    Raises:
        PolicyError: it does not.
    """
    if block.actions is None and block.probability.shape[1] != log.n_actions:
        raise PolicyError(
            f"{log.origin}: the policy has probabilities of {block.probability.shape[1]} actions, and the log "
            f"{log.n_actions}; name all actions by `actions` when the log is read"
        )
    sums = block.probability.sum(1)
    bad = ~((sums - 1).abs() < _SUM)
    if bad.any():
        at = int(bad.int().argmax())
        raise PolicyError(
            f"{log.origin}: the policy's probabilities sum to {float(sums[at]):.6g} in row {rounds[at]}; they must sum "
            "to 1 over the actions of a round"
        )
