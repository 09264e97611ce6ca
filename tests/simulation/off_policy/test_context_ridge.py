"""The ridge regression of the context against a solver, its derivatives by hand, and what it is worth in a world."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.context_ridge import ContextRidge
from recsys.simulation.off_policy.direct_method import DirectMethod
from recsys.simulation.off_policy.doubly_robust import DoublyRobust
from recsys.simulation.off_policy.intervals import standard_error
from recsys.simulation.off_policy.log_columns import LogColumns, LogError
from recsys.simulation.off_policy.policies import Block, TablePolicy
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import rounds_of

N, ACTIONS = 40, 3
FEATURES = np.array([[0.0, 1.0], [1.0, -1.0], [0.5, 2.0]])
WITH_ONE = np.concatenate([np.ones((ACTIONS, 1)), FEATURES], axis=1)


def some_log() -> BanditLog:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"action": random.integers(0, ACTIONS, N), "position": random.integers(0, 2, N)})
    frame = frame.assign(reward=random.random(N), propensity=0.5, x=random.normal(size=N), y=random.normal(size=N))
    return BanditLog.from_frame(frame, LogColumns(context=("x", "y")), actions=range(ACTIONS))


def shrunk(log: BanditLog, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`[P, A, ...]` shrunk means of values `[N, ...]` with a weight for each round, in a loop."""
    means = np.zeros((2, ACTIONS, *values.shape[1:]))
    for p in range(2):
        here = log.position == p
        mean = np.average(values[here], weights=weight[here], axis=0)
        for a in range(ACTIONS):
            cell = here & (log.action == a)
            means[p, a] = (weight[cell] @ values[cell] + 2 * mean) / (weight[cell].sum() + 2)
    return means


def solved(log: BanditLog, weight: np.ndarray) -> np.ndarray:
    """`[N, A]` predictions with a weight for each round, by a dense solver."""
    centred = log.context - log.context.mean(0)
    phi = np.array([np.kron(x, WITH_ONE[a]) for x, a in zip(centred, log.action, strict=True)])
    at = log.position, log.action
    less, rest = (values - shrunk(log, weight, values)[at] for values in (phi, log.reward))
    theta = np.linalg.solve((less.T * weight) @ less + 3 * np.eye(phi.shape[1]), (less.T * weight) @ rest)
    every = np.array([[np.kron(x, z) @ theta for z in WITH_ONE] for x in centred])
    return shrunk(log, weight, log.reward - phi @ theta)[log.position] + every


def test_without_shrinkage_it_is_least_squares_with_a_constant_for_each_action_and_position() -> None:
    log = some_log()
    model = ContextRidge(FEATURES, ridge=0.0, shrinkage=0.0).fit(log, np.arange(N))
    centred = log.context - log.context.mean(0)
    phi = np.array([np.kron(x, WITH_ONE[a]) for x, a in zip(centred, log.action, strict=True)])
    design = np.concatenate([np.eye(6)[log.position * ACTIONS + log.action], phi], axis=1)
    fitted = design @ np.linalg.lstsq(design, log.reward)[0]
    own = Block(torch.ones(N, 1, dtype=torch.float64), torch.from_numpy(log.action)[:, None])
    assert model.predict(log, np.arange(N), own)[:, 0].numpy() == pytest.approx(fitted, abs=1e-10)


def test_predictions_are_those_of_a_solver() -> None:
    log = some_log()
    chosen = np.arange(5, N)
    model = ContextRidge(FEATURES, ridge=3.0, shrinkage=2.0).fit(log, chosen)
    wanted = solved(log, (np.arange(N) >= 5).astype(float))
    every = np.arange(N)
    whole = model.predict(log, every, Block(torch.zeros(N, ACTIONS, dtype=torch.float64)))
    assert whole.numpy() == pytest.approx(wanted, abs=1e-10)
    some = torch.tensor([[2, 0]]).expand(N, -1)
    part = model.predict(log, every, Block(torch.zeros(N, 2, dtype=torch.float32), some))
    assert part.dtype == torch.float32 and part.numpy() == pytest.approx(wanted[:, [2, 0]], abs=1e-5)


@pytest.mark.parametrize("lists", [False, True])
def test_the_pull_is_the_derivative_by_the_weight_of_a_round(lists: bool) -> None:
    log, chosen = some_log(), np.arange(5, N)
    random = np.random.default_rng(1)
    asked_rows = np.array([0, 3, 17, 30])
    pi = random.random((4, ACTIONS))
    block = Block(torch.from_numpy(pi))
    if lists:
        order = np.array([[2, 0], [1, 2], [0, 1], [1, 0]])
        block = Block(torch.from_numpy(np.take_along_axis(pi, order, 1)), torch.from_numpy(order))
        kept = np.zeros_like(pi)
        np.put_along_axis(kept, order, 1.0, 1)
        pi = pi * kept
    model = ContextRidge(FEATURES, ridge=3.0, shrinkage=2.0).fit(log, chosen)
    weight = (np.arange(N) >= 5).astype(float)
    by_hand = np.zeros(N)
    for i in chosen:
        up, down = (solved(log, weight + step * (np.arange(N) == i)) for step in (1e-5, -1e-5))
        by_hand[i] = (pi * (up - down)[asked_rows]).sum() / 2e-5
    assert model.pull(log, model.asked(log, asked_rows, block)) == pytest.approx(by_hand, abs=1e-7)


def test_a_context_that_matters() -> None:
    """Direct method and doubly robust: no bias where the model is right, less variance, and the error that is said."""
    values: dict[str, list[float]] = {}
    errors: list[float] = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        x, n = random.normal(size=300), 300
        logging = 1 / (1 + np.exp(-x))  # takes action 1 where the context is high
        action = (random.random(n) < logging).astype(int)
        reward = x * (2 * action - 1) + action + random.normal(size=n) * 0.3
        propensity = np.where(action == 1, logging, 1 - logging)
        frame = pd.DataFrame({"action": action, "reward": reward, "propensity": propensity, "x": x})
        log = BanditLog.from_frame(frame, LogColumns(context=("x",)))
        policy = TablePolicy(np.array([[0.3, 0.7]]), np.zeros(n, dtype=np.int64))
        for name, model in (("ridge", ContextRidge(np.array([[0.0], [1.0]]), 0.1, 0.1)), ("means", MeanByAction(0.1))):
            rounds = rounds_of(log, policy, CrossFitted.of(model, log, seed=seed))
            values.setdefault(f"DM {name}", []).append(DirectMethod()(rounds).value)
            values.setdefault(f"DR {name}", []).append(DoublyRobust()(rounds).value)
            if name == "ridge":
                errors.append(standard_error(DoublyRobust()(rounds), rounds.unit))
    truth = 0.7  # E x (2 a - 1) is 0, and action 1 earns 1 more
    error = {name: np.std(each, ddof=1) / np.sqrt(60) for name, each in values.items()}
    off = {name: abs(np.mean(each) - truth) for name, each in values.items()}
    assert off["DR ridge"] < 4 * error["DR ridge"] and off["DR means"] < 4 * error["DR means"]
    assert off["DM ridge"] < 4 * error["DM ridge"] + 0.01  # the little shrinkage leaves a little bias
    assert off["DM means"] > 0.2  # its means are those of users whom the logging policy chose
    assert np.std(values["DR ridge"]) < 0.8 * np.std(values["DR means"])
    assert np.mean(errors) == pytest.approx(np.std(values["DR ridge"]), rel=0.3)


def test_what_is_missing_is_said() -> None:
    log = some_log()
    with pytest.raises(LogError, match="3 actions need features each, not 2"):
        ContextRidge(FEATURES[:2]).fit(log, np.arange(N))
    bare = BanditLog.from_frame(log.table)
    with pytest.raises(LogError, match=r"no context; name its columns by `LogColumns\.context`"):
        ContextRidge().fit(bare, np.arange(N))
