"""Probabilities of policies, in blocks of any size, against dense computations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.als import ALS
from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import Choice, EpsilonGreedy, Softmax, TopKUniform
from recsys.simulation.off_policy.policies import Block, Policy, PolicyError, TablePolicy
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import rounds_of
from recsys.simulation.off_policy.scored_policy import ListScores, RecommenderScores, ScoredPolicy

N, ACTIONS, UNKNOWN = 80, 12, 3
"""Rounds, actions, and the one action that the model does not know, which was never logged."""
KNOWN = np.setdiff1d(np.arange(ACTIONS), [UNKNOWN])


pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out trains on events")


def table(candidates: bool) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "action": random.choice(KNOWN, N),
            "reward": random.random(N),
            "propensity": random.uniform(0.05, 1, N),
            "position": random.integers(1, 3, N),
        }
    )
    if candidates:
        frame["candidates"] = [
            np.union1d(random.choice(ACTIONS, random.integers(4, 7), replace=False), [action])
            for action in frame["action"]
        ]
    return frame


def dense(policy: Policy, log: BanditLog) -> np.ndarray:
    """`[N, A]` probabilities, asked a round at a time."""
    found = np.zeros((len(log), log.n_actions))
    for row in range(len(log)):
        block = policy.block(log, np.array([row]))
        actions = range(log.n_actions) if block.actions is None else block.actions[0].tolist()
        for action, probability in zip(actions, block.probability[0].tolist(), strict=True):
            found[row, action] += probability
    return found


@pytest.fixture(scope="module")
def scores() -> RecommenderScores:
    """A model of 12 items; action `a` is item `12 - a`."""
    random = np.random.default_rng(2)
    events = pd.DataFrame(
        {"user_id": np.repeat(np.arange(40), 6), "item_id": random.integers(0, ACTIONS, 240), "timestamp": range(240)}
    )
    log = EventLog.from_frame(events, Schema(name="shop"))
    model = ALS(factors=4)
    model.fit(LeaveLastOut()(log))
    items = log.items.encode(ACTIONS - 1 - np.arange(ACTIONS))
    items[UNKNOWN] = 0

    def batches(rounds: np.ndarray) -> SequenceBatch:
        n = torch.from_numpy(rounds % 3 + 1)
        item = torch.from_numpy(np.concatenate([(row * np.arange(1, row % 3 + 2)) % ACTIONS + 1 for row in rounds]))
        return SequenceBatch.build(torch.zeros(len(rounds), dtype=torch.int64), n, item, torch.arange(len(item)))

    return RecommenderScores(model, batches, items)


@pytest.mark.parametrize("candidates", [False, True])
@pytest.mark.parametrize(
    ("choice", "probabilities"),
    [
        (Softmax(0.3), lambda s: np.exp(s / 0.3) / np.exp(s / 0.3).sum()),
        (EpsilonGreedy(0.2), lambda s: 0.2 / np.isfinite(s).sum() * np.isfinite(s) + 0.8 * (s == s.max())),
        (TopKUniform(3), lambda s: (s >= np.sort(s)[-3]) * np.isfinite(s) / min(3, np.isfinite(s).sum())),
    ],
)
def test_a_recommender_as_a_policy(
    scores: RecommenderScores, choice: Choice, probabilities: Callable[[np.ndarray], np.ndarray], candidates: bool
) -> None:
    frame = table(candidates)
    log = BanditLog.from_frame(frame, actions=range(ACTIONS))
    policy = ScoredPolicy(scores, choice)
    found = dense(policy, log)
    for row in range(len(log)):
        whole = scores.model.scores(scores.batches(np.array([row])))[0].double().numpy()
        expected = whole[scores.items.numpy()]
        expected[UNKNOWN] = -np.inf
        if candidates:
            others = np.setdiff1d(np.arange(ACTIONS), frame["candidates"].iloc[row])
            expected[others] = -np.inf
        assert found[row] == pytest.approx(probabilities(expected), abs=1e-5)


@pytest.mark.parametrize("candidates", [False, True])
def test_blocks_of_any_size_give_what_a_dense_matrix_gives(scores: RecommenderScores, candidates: bool) -> None:
    log = BanditLog.from_frame(table(candidates), actions=range(ACTIONS))
    policy = ScoredPolicy(scores, EpsilonGreedy(0.3))
    rewards = CrossFitted.of(MeanByAction(), log)
    pi = dense(policy, log)
    q = np.zeros((N, ACTIONS))
    for fold, model in enumerate(rewards.models):
        rows = np.flatnonzero(rewards.fold == fold)
        q[rows] = model._means[torch.float64].numpy()[log.position[rows]]  # type: ignore[attr-defined]
    at = np.arange(N), log.action
    never = ~log.logged_at()[log.position]
    for budget in (1, 1000, 2**20):
        rounds = rounds_of(log, policy, rewards, budget)
        assert rounds.weight == pytest.approx(pi[at] / log.propensity, rel=1e-5)
        assert rounds.expected == pytest.approx((pi * q).sum(1), abs=1e-6)
        assert rounds.predicted == pytest.approx(q[at], abs=1e-12)
        assert rounds.unsupported == pytest.approx((pi * never).sum(1).mean(), abs=1e-7)


def test_predictions_are_of_models_that_saw_no_round_of_the_user() -> None:
    frame = table(False).assign(user_id=np.arange(N) // 5)
    log = BanditLog.from_frame(frame, actions=range(ACTIONS))
    rewards = CrossFitted.of(MeanByAction(), log)
    assert all(len(set(rewards.fold[log.unit == unit])) == 1 for unit in range(N // 5))
    fold = rewards.fold == 0
    changed = BanditLog.from_frame(frame.assign(reward=np.where(fold, 9.0, frame["reward"])), actions=range(ACTIONS))
    again = CrossFitted.of(MeanByAction(), changed)
    policy = TablePolicy(np.full((1, ACTIONS), 1 / ACTIONS), np.zeros(N, dtype=np.int64))
    before, after = (rounds_of(each, policy, model) for each, model in ((log, rewards), (changed, again)))
    assert (before.predicted[fold] == after.predicted[fold]).all()
    assert not np.allclose(before.predicted[~fold], after.predicted[~fold])


def test_an_action_that_the_log_does_not_know_is_unsupported() -> None:
    log = BanditLog.from_frame(pd.DataFrame({"action": ["a", "b"], "reward": [1, 0], "propensity": 0.5}))
    lists = ListScores(np.array([[0, -1], [1, 0]]), np.array([[2.0, 1.0], [1.0, -np.inf]]))
    rounds = rounds_of(log, ScoredPolicy(lists, TopKUniform(2)), None)
    assert rounds.weight.tolist() == [1.0, 2.0] and rounds.unsupported == 0.25
    nothing = ListScores(np.zeros((2, 1), np.int64), np.array([[1.0], [-np.inf]]))
    with pytest.raises(PolicyError, match="no action with a score for row 1"):
        rounds_of(log, ScoredPolicy(nothing, TopKUniform(1)), None)
    with pytest.raises(PolicyError, match="probabilities of 3 actions, and the log 2"):
        rounds_of(log, TablePolicy(np.full((1, 3), 1 / 3), np.zeros(2, np.int64)))


def test_probabilities_that_do_not_sum_to_1_are_refused() -> None:
    class Broken:
        def width(self, log: BanditLog) -> int:
            return log.n_actions

        def block(self, log: BanditLog, rounds: np.ndarray) -> Block:
            return Block(torch.tensor([[0.5, 0.5], [0.5, 0.4]])[rounds])

    log = BanditLog.from_frame(pd.DataFrame({"action": ["a", "b"], "reward": [1, 0], "propensity": 0.5}))
    for budget in (1, 2**20):
        with pytest.raises(PolicyError, match=r"sum to 0\.9 in row 1"):
            rounds_of(log, Broken(), None, budget)


def test_a_table_by_groups() -> None:
    log = BanditLog.from_frame(
        pd.DataFrame({"action": ["a", "b", "a"], "reward": 1, "propensity": 0.5, "position": [2, 1, 1], "s": ["x"] * 3})
    )
    rows = pd.DataFrame({"action": ["a", "b", "b"], "position": [1, 1, 2], "probability": [0.3, 0.7, 1.0]})
    policy = TablePolicy.from_frame(log, rows, by=["position"])
    assert dense(policy, log).tolist() == [[0, 1], [0.3, 0.7], [0.3, 0.7]]
    for broken, by, said in (
        (rows.drop(columns="probability"), ["position"], "no column `probability`"),
        (rows.assign(t=1), ["t"], "no column `t`, by which"),
        (rows.assign(action=["a", "b", "z"]), ["position"], "recommends 'z'.*such as 'a'; name all actions"),
        (rows.assign(action=[1, 2, 3]), ["position"], r"recommends 1, which is no action of the log, such as 'a'"),
        (rows.assign(probability=["a", "b", "c"]), ["position"], "`probability` .* is no column of numbers"),
        (rows[rows["position"] == 1], ["position"], "no group of position 2, that of row 0"),
        (rows, [], "names an action twice"),
        (rows.assign(probability=[0.3, 0.6, 1.0]), ["position"], "group 0 sum to 0.9"),
        (rows.assign(probability=[-0.3, 1.3, 1.0]), ["position"], "the least is -0.3"),
        (rows[rows["action"] == "b"].assign(probability=1.0), ["position"], "'a' of row 0 is unknown to the policy"),
    ):
        with pytest.raises(PolicyError, match=said):
            TablePolicy.from_frame(log, broken, by)


@pytest.mark.parametrize("bad", [lambda: Softmax(0.0), lambda: EpsilonGreedy(1.1), lambda: TopKUniform(0)])
def test_choices_refuse_nonsense(bad: Callable[[], Choice]) -> None:
    with pytest.raises(PolicyError):
        bad()
