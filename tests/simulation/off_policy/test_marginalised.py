"""Weights of clusters: unbiased where the cluster decides the reward, with much less variance."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import TopKUniform
from recsys.simulation.off_policy.intervals import standard_error
from recsys.simulation.off_policy.inverse_propensity import IPW
from recsys.simulation.off_policy.marginalised import MarginalizedIPW, with_clusters
from recsys.simulation.off_policy.planted_rounds import PlantedRounds
from recsys.simulation.off_policy.rounds import Rounds, rounds_of
from recsys.simulation.off_policy.scored_policy import ListScores, ScoredPolicy
from tests.simulation.off_policy.worlds import world

ACTIONS, CLUSTERS = 40, 4
CLUSTER = np.arange(ACTIONS) % CLUSTERS


def clustered() -> PlantedRounds:
    """The cluster decides the reward, in each group another way."""
    planted = world(groups=2, actions=ACTIONS, seed=1)
    return PlantedRounds(planted.click[:, CLUSTER], planted.logging, planted.target)


@pytest.mark.parametrize("known", [True, False])
def test_weights_by_hand(known: bool) -> None:
    planted = clustered()
    log = planted.draw(200, 0)
    policy = planted.policy(log)
    logging = planted.policy(log, planted.logging) if known else None
    rounds = rounds_of(log, policy)
    found = with_clusters(rounds, log, policy, CLUSTER, logging, budget=1000).cluster_weight
    assert found is not None
    group = log.table["group"].to_numpy()
    for row in range(200):
        same = CLUSTER[log.action[row]] == CLUSTER
        if known:
            wanted = planted.target[group[row], same].sum() / planted.logging[group[row], same].sum()
        else:
            wanted = np.mean([w for w, a in zip(rounds.weight, log.action, strict=True) if same[a]])
        assert found[row] == pytest.approx(wanted)


def test_bias_and_variance() -> None:
    planted = clustered()
    logs = 150
    found: dict[str, list[float]] = {"MIPS": [], "IPW": []}
    for seed in range(logs):
        log = planted.draw(300, seed)
        policy = planted.policy(log)
        rounds = with_clusters(rounds_of(log, policy), log, policy, CLUSTER, planted.policy(log, planted.logging))
        found["MIPS"].append(MarginalizedIPW()(rounds).value)
        found["IPW"].append(IPW()(rounds).value)
    for values in found.values():
        assert abs(np.mean(values) - planted.value) < 4 * np.std(values) / math.sqrt(logs)
    assert np.var(found["MIPS"]) < 0.5 * np.var(found["IPW"])


def test_errors_know_that_weights_were_estimated() -> None:
    """The cluster alone decides the reward, and of the logging policy nothing is known but the propensities."""
    one = world(groups=1, actions=ACTIONS, seed=1)
    planted = PlantedRounds(np.linspace(0.3, 0.9, CLUSTERS)[None, CLUSTER], one.logging, one.target)
    logs = 200
    values, errors = [], []
    for seed in range(logs):
        log = planted.draw(400, seed)
        policy = planted.policy(log)
        terms = MarginalizedIPW()(with_clusters(rounds_of(log, policy), log, policy, CLUSTER))
        values.append(terms.value)
        errors.append(standard_error(terms, log.unit))
    assert abs(np.mean(values) - planted.value) < 4 * np.std(values) / math.sqrt(logs)
    # The standard deviation itself is known within some 5 percent.
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.15)


def test_what_is_missing_is_said() -> None:
    planted = clustered()
    log = planted.draw(20, 0)
    policy = planted.policy(log)
    rounds: Rounds = rounds_of(log, policy)
    with pytest.raises(ValueError, match="with_clusters"):
        MarginalizedIPW()(rounds)
    with pytest.raises(ValueError, match="40 actions need a cluster each, from 0 on, not 39"):
        with_clusters(rounds, log, policy, CLUSTER[1:])


def test_lists_of_actions() -> None:
    log = BanditLog.from_frame(pd.DataFrame({"action": [0, 1, 2], "reward": 1.0, "propensity": 1 / 3}))
    lists = ListScores(np.array([[2, 0], [1, -1], [1, 2]]), np.ones((3, 2)))
    policy = ScoredPolicy(lists, TopKUniform(2))
    uniform = ScoredPolicy(ListScores(np.tile(np.arange(3), (3, 1)), np.ones((3, 3))), TopKUniform(3))
    rounds = with_clusters(rounds_of(log, policy), log, policy, np.array([0, 1, 0]), uniform)
    assert rounds.cluster_weight == pytest.approx([1.5, 1.5, 0.75])
