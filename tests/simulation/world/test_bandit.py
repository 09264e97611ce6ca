"""Simulated logs before off-policy estimators, whose answers are compared with the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.simulation.off_policy.evaluate import evaluate_policies
from recsys.simulation.world.bandit import FirstItem, bandit_log, bandit_table
from recsys.simulation.world.experiment import Design, simulate
from recsys.simulation.world.rules import EpsilonGreedy, PlackettLuce
from recsys.simulation.world.truth import policy_value
from tests.simulation.world.worlds import best, popular, small


def test_estimates_from_a_simulated_log_hold_the_truth() -> None:
    world = small(n_users=1_500, n_items=12, visits=3.0)
    policies = {"softmax": best(world, PlackettLuce(0.7)), "greedy": best(world, EpsilonGreedy(0.1))}
    design = Design(days=3, length=1, grow=False, keep=True)
    logging = popular(world, PlackettLuce(2.0))
    sessions = simulate(world, {"log": logging}, design, beside=policies).sessions
    assert sessions is not None
    log = bandit_log(sessions, world.n_items)
    order = torch.argsort(sessions.user, stable=True)
    asked = {name: FirstItem(policy, world.histories) for name, policy in policies.items()}
    for name, policy in asked.items():
        block = policy.block(log, np.arange(500))
        torch.testing.assert_close(block.of(torch.from_numpy(log.action[:500])), sessions.beside[name][order[:500], 0])
        torch.testing.assert_close(block.probability.sum(1), torch.ones(500, dtype=torch.float64))
    report = evaluate_policies(log, asked, level=0.001)
    for name, policy in policies.items():
        value = policy_value(world, policy, 1).mean
        for estimator in ("IPW", "SNIPW", "DR"):
            found = report.policies[name].estimates[estimator]
            assert found.low < value < found.high, f"{name} by {estimator}"
        # Users come at random, so that the log's mean is another one than that of the truth.
        assert abs(report.logged - policy_value(world, logging, 1).mean) < 0.05
        assert report.logged_high < value


def test_a_table_has_a_row_for_each_shown_item() -> None:
    world = small(n_users=50, n_items=4)
    sessions = simulate(
        world, {"log": best(world, EpsilonGreedy(0.2), candidates=3)}, Design(days=3, length=3, keep=True)
    ).sessions
    assert sessions is not None
    table = bandit_table(sessions)
    assert len(table) == int((sessions.items > 0).sum())
    row = table.iloc[len(table) // 2]
    at = int(row["slate_id"]), int(row["position"]) - 1
    assert sessions.items[at] == row["action"] and sessions.propensity[at] == row["propensity"]
    assert sessions.clicks[at] == row["reward"] and sessions.user[at[0]] == row["user_id"]
    with pytest.raises(ValueError, match="lists hold 3 items"):
        bandit_log(sessions, 4)
