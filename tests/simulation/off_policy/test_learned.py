"""What a reward model learned from each round is in the intervals: derivatives by hand, and coverage over logs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import TopKUniform
from recsys.simulation.off_policy.direct_method import DirectMethod
from recsys.simulation.off_policy.doubly_robust import DoublyRobust, SelfNormalizedDR
from recsys.simulation.off_policy.intervals import Bootstrap, Normal, standard_error
from recsys.simulation.off_policy.policies import Policy, TablePolicy
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import rounds_of
from recsys.simulation.off_policy.scored_policy import ListScores, ScoredPolicy
from recsys.simulation.off_policy.shrunk_weights import OptimisticShrinkageDR, SwitchDR
from recsys.simulation.off_policy.terms import Estimator
from tests.simulation.off_policy.worlds import world

WORLD = replace(world(groups=1), click=np.array([[0.1, 0.6, 0.3, 0.5, 0.2]]))
"""One group, so that means by action are the truth and the direct method has no bias."""


def shrunk(log: BanditLog, weight: np.ndarray, shrinkage: float) -> np.ndarray:
    """`[P, A]` shrunk means with a weight for each round, in a loop."""
    means = np.zeros((len(log.positions), log.n_actions))
    for p in range(len(log.positions)):
        here = log.position == p
        mean = (weight * log.reward)[here].sum() / weight[here].sum()
        for a in range(log.n_actions):
            cell = here & (log.action == a)
            means[p, a] = ((weight * log.reward)[cell].sum() + shrinkage * mean) / (weight[cell].sum() + shrinkage)
    return means


@pytest.mark.parametrize("shrinkage", [0.5, 20.0])
def test_the_pull_is_the_derivative_by_the_weight_of_a_round(shrinkage: float) -> None:
    random = np.random.default_rng(0)
    n = 24
    frame = pd.DataFrame({"action": random.integers(0, 3, n), "position": random.integers(0, 2, n)})
    log = BanditLog.from_frame(frame.assign(reward=random.random(n), propensity=0.5), actions=range(3))
    chosen, mass = np.arange(3, n), random.normal(size=(2, 3))
    model = MeanByAction(shrinkage).fit(log, chosen)
    weight = (np.arange(n) >= 3).astype(float)
    by_hand = np.zeros(n)
    for i in chosen:
        moved = [weight + step * (np.arange(n) == i) for step in (1e-5, -1e-5)]
        up, down = ((mass * shrunk(log, each, shrinkage)).sum() for each in moved)
        by_hand[i] = (up - down) / 2e-5
    assert model.pull(log, torch.from_numpy(mass)) == pytest.approx(by_hand, abs=1e-7)


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("budget", [1, 2000, 2**20])
def test_pulls_count_what_the_policy_asks_for(lists: bool, budget: int) -> None:
    log = WORLD.draw(100, 0)
    random = np.random.default_rng(1)
    each = np.argsort(random.random((100, 5)))[:, :2]
    policy: Policy = WORLD.policy(log)
    pi = np.tile(WORLD.target, (100, 1))
    if lists:
        policy = ScoredPolicy(ListScores(each, random.random((100, 2))), TopKUniform(2))
        pi = np.zeros((100, 5))
        pi[np.arange(100)[:, None], each] = 0.5
    rewards = CrossFitted.of(MeanByAction(3.0), log)
    weights = random.random(100)
    by_hand = np.zeros(100)
    for fold, model in enumerate(rewards.models):
        mass = np.zeros((1, 5))
        for row in np.flatnonzero(rewards.fold == fold):
            mass[0] += pi[row]
            mass[0, log.action[row]] -= weights[row]
        by_hand += model.pull(log, torch.from_numpy(mass))
    found = rounds_of(log, policy, rewards, budget).pull(weights)
    assert found == pytest.approx(by_hand - by_hand.mean(), abs=1e-12)


ESTIMATORS: list[Estimator] = [
    DirectMethod(), DoublyRobust(), SelfNormalizedDR(), SwitchDR(1.0), OptimisticShrinkageDR(0.5),
]  # fmt: skip


def test_intervals_cover_with_a_model_that_was_learned() -> None:
    logs, n, level = 200, 400, 0.1
    values: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    missed = {each.name: [0, 0] for each in ESTIMATORS}
    for seed in range(logs):
        log = WORLD.draw(n, seed)
        rounds = rounds_of(log, WORLD.policy(log), CrossFitted.of(MeanByAction(1.0), log, seed=seed))
        terms = {each.name: each(rounds) for each in ESTIMATORS}
        for place, method in enumerate((Normal(), Bootstrap(100))):
            for name, (low, high) in method.intervals(terms, rounds.unit, level).items():
                missed[name][place] += not low <= WORLD.value <= high
        for name, each in terms.items():
            values.setdefault(name, []).append(each.value)
            errors.setdefault(name, []).append(standard_error(each, rounds.unit))
    for name, counts in missed.items():
        assert np.mean(errors[name]) == pytest.approx(np.std(values[name], ddof=1), rel=4 / math.sqrt(2 * logs)), name
        for count in counts:
            assert abs(count / logs - level) < 4 * math.sqrt(level * (1 - level) / logs) + 0.02, name


def test_without_a_model_there_is_no_pull() -> None:
    log = WORLD.draw(50, 0)
    uniform = TablePolicy(np.full((1, 5), 0.2), np.zeros(50, dtype=np.int64))
    assert rounds_of(log, uniform).pull(np.ones(50)) is None
