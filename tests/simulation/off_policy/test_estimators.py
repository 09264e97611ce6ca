"""Estimators against their formulas in a loop, closed forms of planted worlds, and the Open Bandit Pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.direct_method import DirectMethod
from recsys.simulation.off_policy.doubly_robust import DoublyRobust, SelfNormalizedDR
from recsys.simulation.off_policy.inverse_propensity import IPW, ClippedIPW, SelfNormalizedIPW
from recsys.simulation.off_policy.policies import Block
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import Rounds, rounds_of
from recsys.simulation.off_policy.shrunk_weights import OptimisticShrinkageDR, SwitchDR
from recsys.simulation.off_policy.terms import Estimator
from tests.simulation.off_policy.worlds import world

WORLD = world()


def some_rounds(n: int = 200) -> tuple[Rounds, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rounds, and what they were computed from: probabilities, predictions, actions, rewards, propensities."""
    random = np.random.default_rng(1)
    pi, q = random.dirichlet(np.ones(4), n), random.random((n, 4))
    action, reward, propensity = random.integers(0, 4, n), random.random(n), random.uniform(0.05, 1, n)
    at = np.arange(n), action
    rounds = Rounds(reward, pi[at] / propensity, q[at], (pi * q).sum(1), np.arange(n))
    return rounds, pi, q, action, reward, propensity


class Known:
    """Predictions `[A]` that were not learned from the log."""

    def __init__(self, q: np.ndarray) -> None:
        self.q = torch.from_numpy(q)

    def predict(self, log: BanditLog, rounds: np.ndarray, block: Block) -> torch.Tensor:
        if block.actions is None:
            return self.q.expand(len(rounds), -1)
        return self.q[block.actions]

    def asked(self, log: BanditLog, rounds: np.ndarray, block: Block) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.float64)

    def pull(self, log: BanditLog, asked: torch.Tensor) -> np.ndarray:
        return np.zeros(len(log))


def by_hand(name: str) -> float:
    """The formula of an estimator, a round at a time."""
    _, pi, q, action, reward, propensity = some_rounds()
    n, total, top, weights = len(action), 0.0, 0.0, 0.0
    for t in range(n):
        w = pi[t, action[t]] / propensity[t]
        own = q[t, action[t]]
        expected = sum(pi[t, a] * q[t, a] for a in range(4))
        weights += w
        total += {
            "DM": expected,
            "IPW": w * reward[t],
            "clipped IPW": min(w, 1.5) * reward[t],
            "SNIPW": 0.0,
            "DR": expected + w * (reward[t] - own),
            "SNDR": expected,
            "switch-DR": expected + (w * (reward[t] - own) if w <= 1.5 else 0),
            "DRos": expected + 1.5 * w / (w * w + 1.5) * (reward[t] - own),
        }[name]
        top += {"SNIPW": w * reward[t], "SNDR": w * (reward[t] - own)}.get(name, 0.0)
    return total / n + top / weights


ESTIMATORS: list[Estimator] = [
    DirectMethod(), IPW(), ClippedIPW(1.5), SelfNormalizedIPW(), DoublyRobust(), SelfNormalizedDR(), SwitchDR(1.5),
    OptimisticShrinkageDR(1.5),
]  # fmt: skip


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.name)
def test_the_formula(estimator: Estimator) -> None:
    assert estimator(some_rounds()[0]).value == pytest.approx(by_hand(estimator.name), abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.name)
def test_as_the_open_bandit_pipeline(estimator: Estimator) -> None:
    ope = pytest.importorskip("obp.ope", reason="needs obp 0.4.1, which is compared with and not required")
    rounds, pi, q, action, reward, propensity = some_rounds()
    theirs = {
        "DM": ope.DirectMethod(),
        "IPW": ope.InverseProbabilityWeighting(),
        "SNIPW": ope.SelfNormalizedInverseProbabilityWeighting(),
        "DR": ope.DoublyRobust(),
        "switch-DR": ope.SwitchDoublyRobust(tau=1.5),
        "DRos": ope.DoublyRobustWithShrinkage(lambda_=1.5),
    }.get(estimator.name)
    if theirs is None:
        pytest.skip("theirs has no such estimator, or another formula")
    found = theirs.estimate_policy_value(
        reward=reward,
        action=action,
        pscore=propensity,
        action_dist=pi[:, :, None],
        estimated_rewards_by_reg_model=q[:, :, None],
    )
    assert estimator(rounds).value == pytest.approx(found, abs=1e-6)


def test_ends_of_the_families() -> None:
    rounds = some_rounds()[0]
    dm, dr, ipw = (e(rounds).value for e in (DirectMethod(), DoublyRobust(), IPW()))
    assert SwitchDR(0)(rounds).value == OptimisticShrinkageDR(0)(rounds).value == pytest.approx(dm)
    assert SwitchDR(math.inf)(rounds).value == OptimisticShrinkageDR(math.inf)(rounds).value == pytest.approx(dr)
    assert OptimisticShrinkageDR(1e12)(rounds).value == pytest.approx(dr)
    assert ClippedIPW(math.inf)(rounds).value == pytest.approx(ipw)


@pytest.mark.parametrize("fitted", [False, True])
def test_bias_and_variance_are_those_of_theory(fitted: bool) -> None:
    """Over many logs: the mean is the value, the variance the closed form (for predictions that are fixed)."""
    q = np.random.default_rng(9).uniform(0, 0.6, WORLD.click.shape[1])
    n, logs = 400, 250
    found: dict[str, list[float]] = {"IPW": [], "DR": [], "SNIPW": []}
    estimators: dict[str, Callable[[Rounds], float]] = {
        "IPW": lambda rounds: IPW()(rounds).value,
        "DR": lambda rounds: DoublyRobust()(rounds).value,
        "SNIPW": lambda rounds: SelfNormalizedIPW()(rounds).value,
    }
    for seed in range(logs):
        log = WORLD.draw(n, seed)
        if fitted:
            rewards = CrossFitted.of(MeanByAction(), log, seed=seed)
        else:
            rewards = CrossFitted([Known(q)], np.zeros(n, dtype=np.int64))
        rounds = rounds_of(log, WORLD.policy(log), rewards)
        for name, estimate in estimators.items():
            found[name].append(estimate(rounds))
    for name, values in found.items():
        error = np.std(values, ddof=1) / math.sqrt(logs)
        # Self-normalising has a bias of the order 1 / n, far below the error.
        assert abs(np.mean(values) - WORLD.value) < 4 * error, name
    spread = 4 * math.sqrt(2 / logs)
    assert np.var(found["IPW"], ddof=1) * n / WORLD.ipw_variance == pytest.approx(1, abs=spread)
    if not fitted:
        every = np.broadcast_to(q, WORLD.click.shape)
        assert np.var(found["DR"], ddof=1) * n / WORLD.dr_variance(every) == pytest.approx(1, abs=spread)
