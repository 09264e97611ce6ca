"""Estimators of slates: unbiased where a reward depends on what stands above, as the pipeline has them, and by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import Softmax, TopKUniform
from recsys.simulation.off_policy.diagnostics import Limits
from recsys.simulation.off_policy.evaluate_slates import evaluate_slates
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import PolicyError, TablePolicy
from recsys.simulation.off_policy.ranked_policy import RankedPolicy, places_of
from recsys.simulation.off_policy.reward_models import folds_of
from recsys.simulation.off_policy.scored_policy import Scored
from recsys.simulation.off_policy.slate_rounds import SlateRounds, slate_rounds
from recsys.simulation.off_policy.slates import CascadeDR, IndependentIPS, RewardInteractionIPS, SlateEstimator

ACTIONS, POSITIONS = 4, 3
LIKED = np.array([0.7, 0.5, 0.3, 0.1])
TARGET, LOGGING = np.array([1.0, 0.6, 0.2, 0.0]), np.array([0.0, 0.2, 0.3, 0.1])


class Fixed:
    """The same scores in every round."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(scores)

    def width(self, log: BanditLog) -> int:
        return len(self.scores)

    def __call__(self, log: BanditLog, rounds: np.ndarray) -> Scored:
        return Scored(self.scores.expand(len(rounds), -1))


def plackett_luce(scores: np.ndarray, slate: tuple[int, ...]) -> list[float]:
    """Chance of each action given those above it."""
    left, found = set(range(ACTIONS)), []
    for action in slate:
        found.append(math.exp(scores[action]) / sum(math.exp(scores[a]) for a in left))
        left.remove(action)
    return found


def click(slate: tuple[int, ...], position: int) -> float:
    """A user looks on after a dislike alone: a reward depends on its action and those above."""
    return float(LIKED[slate[position]] * np.prod([1 - LIKED[a] for a in slate[:position]]))


SLATES = list(itertools.permutations(range(ACTIONS), POSITIONS))
VALUE = sum(
    math.prod(plackett_luce(TARGET, slate)) * sum(click(slate, k) for k in range(POSITIONS)) for slate in SLATES
)


def draw(slates: int, seed: int) -> BanditLog:
    random = np.random.default_rng(seed)
    conditional = np.array([plackett_luce(LOGGING, slate) for slate in SLATES])
    chosen = random.choice(len(SLATES), slates, p=conditional.prod(1) / conditional.prod(1).sum())
    action = np.array(SLATES)[chosen]
    likes = random.random(action.shape) < LIKED[action]
    clicked = likes & (np.cumsum(likes, axis=1) == 1)
    table = pd.DataFrame(
        {
            "slate_id": np.repeat(np.arange(slates), POSITIONS),
            "position": np.tile(np.arange(POSITIONS), slates),
            "action": action.reshape(-1),
            "reward": clicked.reshape(-1).astype(float),
            "propensity": conditional[chosen].reshape(-1),
        }
    )
    return BanditLog.from_frame(table.sample(frac=1, random_state=seed), actions=range(ACTIONS))


def test_the_policy_is_that_of_plackett_and_luce() -> None:
    log = draw(50, 0)
    policy = RankedPolicy(Fixed(TARGET), Softmax(), log)
    slates = slate_rounds(log, policy)
    place = places_of(log)
    for slate in range(50):
        wanted = plackett_luce(TARGET, tuple(log.action[place[slate]]))
        assert slates.weight[slate] * log.propensity[place[slate]] == pytest.approx(wanted, abs=1e-12)
    best = RankedPolicy(Fixed(TARGET), TopKUniform(1), log)
    first = slate_rounds(log, best).weight > 0
    assert (first.cumprod(1) == (log.action[place] == np.arange(POSITIONS)).cumprod(1)).all()


def test_rewards_that_depend_on_what_stands_above() -> None:
    logs, n = 150, 300
    found: dict[str, list[float]] = {"RIPS": [], "cascade DR": []}
    for seed in range(logs):
        log = draw(n, seed)
        slates = slate_rounds(log, RankedPolicy(Fixed(TARGET), Softmax(), log), seed=seed)
        for estimator in (RewardInteractionIPS(), CascadeDR()):
            found[estimator.name].append(estimator(slates).value)
    for name, values in found.items():
        assert abs(np.mean(values) - VALUE) < 4 * np.std(values) / math.sqrt(logs), name
    assert np.var(found["cascade DR"]) < 0.9 * np.var(found["RIPS"])
    with pytest.raises(ValueError, match="independent IPS needs"):
        IndependentIPS()(slates)


def test_no_model_knows_the_user_whom_it_predicts_for() -> None:
    log = draw(30, 0)
    policy = RankedPolicy(Fixed(TARGET), Softmax(), log)
    place = places_of(log)
    before = slate_rounds(log, policy, folds=3)
    for slate in range(5):
        reward = log.reward.copy()
        reward[place[slate]] += [3.0, 2.0, 7.0]
        after = slate_rounds(replace(log, reward=reward), policy, folds=3)
        for name in ("predicted", "expected"):
            assert (getattr(after, name)[slate] == getattr(before, name)[slate]).all(), name
            assert (getattr(after, name) != getattr(before, name)).any(), name


def test_predictions_are_those_of_a_loop_down_the_slate() -> None:
    log, shrinkage, folds = draw(40, 1), 2.0, 2
    slates = slate_rounds(log, RankedPolicy(Fixed(TARGET), Softmax(), log), folds=folds, shrinkage=shrinkage)
    place, fold = places_of(log), folds_of(log, folds, 0)
    for number in range(folds):
        below = np.zeros(40)
        for k in range(POSITIONS - 1, -1, -1):
            to_go = log.reward[place[:, k]] + below
            known = np.array([fold[place[s, k]] != number for s in range(40)])
            action, mean = log.action[place[:, k]], to_go[known].mean()
            q = np.zeros(ACTIONS)
            for a in range(ACTIONS):
                cell = known & (action == a)
                q[a] = (to_go[cell].sum() + shrinkage * mean) / (cell.sum() + shrinkage)
            for s in range(40):
                above = tuple(log.action[place[s, :k]])
                left = [a for a in range(ACTIONS) if a not in above]
                below[s] = sum(plackett_luce(TARGET, (*above, a))[-1] * q[a] for a in left)
                if not known[s]:
                    assert slates.predicted[s, k] == pytest.approx(q[action[s]])
                    assert slates.expected[s, k] == pytest.approx(below[s])


def test_a_slate_may_be_longer_than_all_others() -> None:
    log = draw(30, 0)
    row = log.table.assign(position=POSITIONS, action=3, reward=1.0, propensity=1.0, user_id=0).iloc[[0]]
    longer = BanditLog.from_frame(pd.concat([log.table, row]).drop(columns="user_id"), actions=range(ACTIONS + 1))
    policy = TablePolicy(np.full((1, ACTIONS + 1), 1 / (ACTIONS + 1)), np.zeros(len(longer), dtype=np.int64))
    slates = slate_rounds(longer, policy)
    assert np.isfinite(slates.predicted).all() and np.isfinite(slates.expected).all()


def some_slates(n: int = 40) -> SlateRounds:
    random = np.random.default_rng(3)
    reward, predicted, expected = random.random((3, n, POSITIONS))
    weight, marginal = random.uniform(0, 3, (2, n, POSITIONS))
    return SlateRounds(reward, weight, marginal, predicted, expected, np.arange(n))


def by_hand(name: str) -> float:
    """The formula, a slate and a position at a time."""
    slates = some_slates()
    total = 0.0
    for s in range(len(slates)):
        product = 1.0
        for k in range(POSITIONS):
            before, product = product, product * slates.weight[s, k]
            if name == "IIPS":
                assert slates.marginal is not None
                total += slates.marginal[s, k] * slates.reward[s, k]
            elif name == "RIPS":
                total += product * slates.reward[s, k]
            else:
                total += product * (slates.reward[s, k] - slates.predicted[s, k]) + before * slates.expected[s, k]
    return total / len(slates)


@pytest.mark.parametrize("estimator", [IndependentIPS(), RewardInteractionIPS(), CascadeDR()], ids=lambda e: e.name)
def test_the_formula(estimator: SlateEstimator) -> None:
    assert estimator(some_slates()).value == pytest.approx(by_hand(estimator.name), abs=1e-12)


def test_as_the_open_bandit_pipeline() -> None:
    ope = pytest.importorskip("obp.ope", reason="needs obp 0.4.1, which is compared with and not required")
    slates = some_slates()
    n = len(slates)
    common = {
        "slate_id": np.repeat(np.arange(n), POSITIONS),
        "position": np.tile(np.arange(POSITIONS), n),
        "reward": slates.reward.reshape(-1),
    }
    assert slates.marginal is not None
    low = slates.marginal.max() + 1
    theirs = ope.SlateIndependentIPS(len_list=POSITIONS).estimate_policy_value(
        **common,
        pscore_item_position=np.full(n * POSITIONS, 1 / low),
        evaluation_policy_pscore_item_position=slates.marginal.reshape(-1) / low,
    )
    assert IndependentIPS()(slates).value == pytest.approx(theirs, abs=1e-6)
    product = slates.weight.cumprod(1)
    high = np.cumprod(np.full((n, POSITIONS), 4.0), axis=1)
    theirs = ope.SlateRewardInteractionIPS(len_list=POSITIONS).estimate_policy_value(
        **common,
        pscore_cascade=(1 / high).reshape(-1),
        evaluation_policy_pscore_cascade=(product / high).reshape(-1),
    )
    assert RewardInteractionIPS()(slates).value == pytest.approx(theirs, abs=1e-6)


def test_positions_that_are_filled_independently_and_slates_that_are_short() -> None:
    frame = pd.DataFrame(
        {
            "slate_id": ["a", "a", "b", "c", "c"],
            "position": [1, 2, 2, 1, 2],
            "action": [0, 1, 1, 1, 0],
            "reward": [1.0, 2.0, 3.0, 4.0, 5.0],
            "propensity": 0.5,
            "marginal_propensity": 0.25,
        }
    )
    log = BanditLog.from_frame(frame)
    policy = TablePolicy(np.array([[0.9, 0.1], [0.2, 0.8]]), log.position)
    slates = slate_rounds(log, policy, position_weights=[1.0, 10.0], folds=2)
    assert slates.reward.tolist() == [[1, 20], [0, 30], [4, 50]]
    assert slates.weight == pytest.approx(np.array([[1.8, 1.6], [1, 1.6], [0.2, 0.4]]))
    assert slates.marginal == pytest.approx(np.array([[3.6, 3.2], [1, 3.2], [0.4, 0.8]]))
    lost = TablePolicy(np.array([[0.9, 0.1], [0.2, 0.8]]), log.position)
    lost.probability[0, 0] = np.nan
    with pytest.raises(PolicyError, match="sum to nan in row"):
        slate_rounds(log, lost, folds=2)
    with pytest.raises(LogError, match="2 positions need a weight each, not 1"):
        slate_rounds(log, policy, position_weights=[1.0])


def test_a_report_of_slates() -> None:
    log = draw(3000, 0)
    policies = {
        "new": RankedPolicy(Fixed(TARGET), Softmax(), log),
        "logging": RankedPolicy(Fixed(LOGGING), Softmax(), log),
    }
    report = evaluate_slates(log, policies, level=0.001)
    found = report.policies["new"].estimates
    assert list(found) == ["RIPS", "cascade DR"] and all(each.low < VALUE < each.high for each in found.values())
    assert report.rounds == report.users == 3000 and report.logged == pytest.approx(log.reward.sum() / 3000)
    same = report.policies["logging"].estimates["RIPS"]
    assert same.value == pytest.approx(report.logged) and same.gain == pytest.approx(0, abs=1e-12)
    uniform = TablePolicy(np.full((1, ACTIONS), 1 / ACTIONS), np.zeros(len(log), dtype=np.int64))
    anything = Limits(1.0, 0.0, 0.0)
    first = evaluate_slates(log, {"uniform": uniform}, limits=anything, position_weights=[1, 0, 0])
    assert list(first.policies["uniform"].estimates) == ["IIPS", "RIPS", "cascade DR"]
    assert (
        first.policies["uniform"].estimates["IIPS"].low
        < LIKED.mean()
        < first.policies["uniform"].estimates["IIPS"].high
    )
    with pytest.raises(ValueError, match="two estimators are named RIPS"):
        evaluate_slates(log, policies, estimators=[RewardInteractionIPS(), RewardInteractionIPS()])
    never = Fixed(np.array([-np.inf, 1.0, 0.0, 0.0]))
    refused = evaluate_slates(log, {"far": RankedPolicy(never, Softmax(), log)}, limits=Limits(effective_rounds=1e9))
    assert refused.policies["far"].refusals and not refused.policies["far"].estimates


def test_slates_that_are_none() -> None:
    frame = pd.DataFrame({"slate_id": [1, 1], "position": [1, 1], "action": 0, "reward": 0.0, "propensity": 1.0})
    with pytest.raises(LogError, match="row 0 and row 1 stand at one position"):
        places_of(BanditLog.from_frame(frame))
    with pytest.raises(LogError, match="no slates"):
        places_of(BanditLog.from_frame(frame.drop(columns="slate_id")))
    with pytest.raises(LogError, match="`position` holds texts, and 10 would stand above 2"):
        BanditLog.from_frame(frame.assign(position=["2", "10"]))
    with pytest.raises(LogError, match="the slate of row 1 has several users"):
        places_of(BanditLog.from_frame(frame.assign(position=[1, 2], user_id=["u", "v"])))
