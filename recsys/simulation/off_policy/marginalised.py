"""Marginalised weights: rounds are weighed by the cluster of their action, for catalogues of very many actions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.policies import Policy
from recsys.simulation.off_policy.rounds import BUDGET_BYTES, Rounds, check_probabilities
from recsys.simulation.off_policy.terms import Terms


class MarginalizedIPW:
    """`mean(w(c) r)`, with `c` the cluster of the logged action; unbiased where the cluster decides the reward.

    Rounds need the weights of clusters (`with_clusters`).

    Source: Saito and Joachims, "Off-policy evaluation for large action spaces via embeddings", ICML 2022.
    """

    name = "MIPS"

    def __call__(self, rounds: Rounds) -> Terms:
        if rounds.cluster_weight is None:
            raise ValueError("marginalised weights need the cluster of each action; see `with_clusters`")
        return Terms(rounds.cluster_weight * rounds.reward, pull=rounds.cluster_pull)


def with_clusters(
    rounds: Rounds,
    log: BanditLog,
    policy: Policy,
    cluster: NDArray[np.int64],
    logging: Policy | None = None,
    budget: int = BUDGET_BYTES,
) -> Rounds:
    """The rounds with the weights of clusters.

    Where the logging policy is known, a weight is the probability of the cluster under the policy over that under the
    logging policy. Where it is not, it is the mean weight of the rounds of the cluster at the position, which is right
    as long as the reward depends on nothing else.

    Args:
        rounds: of the policy.
        log: the log.
        policy: the policy that is evaluated.
        cluster: `[A]` int64, the cluster of each action, from 0.
        logging: the policy that logged, with all of its probabilities; None: it is not known.
        budget: bytes of a block of probabilities.

    Raises:
        ValueError: an action has no cluster.
    """
    if len(cluster) != log.n_actions or cluster.min(initial=0) < 0:
        raise ValueError(f"{log.n_actions} actions need a cluster each, from 0 on, not {len(cluster)} of them")
    if logging is not None:
        evaluated, logged = (_of_cluster(log, each, cluster, budget) for each in (policy, logging))
        return replace(rounds, cluster_weight=evaluated / logged, cluster_pull=None)
    cell = log.position * (int(cluster.max()) + 1) + cluster[log.action]
    counts = np.maximum(np.bincount(cell), 1)
    weight, reward = ((np.bincount(cell, weights=each) / counts)[cell] for each in (rounds.weight, rounds.reward))
    return replace(rounds, cluster_weight=weight, cluster_pull=reward * (rounds.weight - weight))


@torch.no_grad()
def _of_cluster(log: BanditLog, policy: Policy, cluster: NDArray[np.int64], budget: int) -> NDArray[np.float64]:
    """`[N]` probability that the policy gives to the cluster of the logged action."""
    clusters = torch.from_numpy(cluster)
    found = np.empty(len(log))
    step = max(1, budget // (8 * policy.width(log)))
    for first in range(0, len(log), step):
        rows = np.arange(first, min(first + step, len(log)))
        block = policy.block(log, rows)
        check_probabilities(block, rows, log)
        own = torch.from_numpy(cluster[log.action[rows]])[:, None]
        of_column = clusters if block.actions is None else clusters[block.actions.clamp(min=0)]
        same = of_column == own
        if block.actions is not None:
            same &= block.actions >= 0
        found[rows] = torch.where(same, block.probability, 0).sum(1).double().numpy()
    return found
