"""The reward of a challenger from a log: its bound is rarely above the truth, and a log that cannot judge refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.simulation.off_policy.choices import EpsilonGreedy, Softmax
from recsys.simulation.off_policy.doubly_robust import DoublyRobust
from recsys.simulation.off_policy.intervals import Bootstrap
from recsys.simulation.off_policy.log_columns import LogError
from recsys.tracking.gates.case import Contestant
from recsys.tracking.gates.gate import GateError
from recsys.tracking.gates.logged_rewards import LoggedRewards
from recsys.tracking.gates.off_policy_bound import OffPolicyBound
from recsys.tracking.gates.rules import GateRules
from recsys.tracking.gates.run import run_gates
from recsys.tracking.pyfunc_evaluation import AnswerError
from tests.tracking.gates.cases import case, evaluation

ITEMS = 6
CLICK = np.linspace(0.1, 0.6, ITEMS)
"""Item 5 is the best, for everybody; the logging policy knows no better than chance."""


def log(path: Path, rounds: int = 3000, **columns: Any) -> Path:
    random = np.random.default_rng(0)
    action = random.integers(0, ITEMS, rounds)
    frame = pd.DataFrame(
        {
            "user_id": np.arange(rounds) // 2,
            "history": [[str(item)] for item in random.integers(0, ITEMS, rounds)],
            "action": action,
            "reward": (random.random(rounds) < CLICK[action]).astype(float),
            "propensity": 1 / ITEMS,
        }
    )
    frame.assign(**columns).to_parquet(path)
    return path


def best(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
    """The best items, from the best down; names are strings, as served models give them."""
    n, k = len(frame), params["k"]
    assert frame["user_id"].map(type).eq(str).all() and frame["history"].map(len).eq(1).all()
    items = np.tile(np.arange(ITEMS - 1, ITEMS - 1 - k, -1), n)
    answer = {"request": np.repeat(np.arange(n), k), "item_id": items.astype(str), "rank": np.tile(np.arange(k) + 1, n)}
    return pd.DataFrame(answer | {"score": items / 1.0}).sample(frac=1, random_state=0)


def contestant(answers: Any = best) -> Contestant:
    return Contestant("challenger", lambda: answers)


@pytest.mark.parametrize(
    ("estimator", "value"),
    [
        (LoggedRewards(k=2), CLICK[[4, 5]].mean()),
        (LoggedRewards(k=2, estimator=DoublyRobust(), lower=Bootstrap(200)), CLICK[[4, 5]].mean()),
        (LoggedRewards(EpsilonGreedy(0.0), k=3), CLICK[5]),
        (LoggedRewards(Softmax(0.5), k=2, batch_requests=7), (CLICK[4] + np.e**2 * CLICK[5]) / (1 + np.e**2)),
    ],
)
def test_the_bound_is_below_the_truth_and_the_estimate_near(
    estimator: LoggedRewards, value: float, tmp_path: Path
) -> None:
    found = estimator.bound(log(tmp_path / "log.parquet"), contestant(), 0.05)
    assert found.estimate == pytest.approx(value, abs=0.06) and found.logged == pytest.approx(CLICK.mean(), abs=0.03)
    assert value - 0.25 < found.low < value


def test_a_challenger_that_is_better_passes_and_one_that_is_worse_does_not(tmp_path: Path) -> None:
    def worst(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        answer = best(frame, params)
        return answer.assign(item_id=(ITEMS - 1 - answer["item_id"].astype(int)).astype(str))

    path = log(tmp_path / "log.parquet")
    both = evaluation({"m": [1.0]}), evaluation({"m": [1.0]})
    for answers, passes in ((best, True), (worst, False)):
        looked = case(*both, bandit_log=path)
        object.__setattr__(looked.challenger, "load", lambda answers=answers: answers)
        verdict = OffPolicyBound(LoggedRewards(k=2, lower=Bootstrap(200))).check(looked)
        assert verdict.passed is passes


def test_a_log_that_cannot_judge_is_an_error_of_the_gate(tmp_path: Path) -> None:
    path = log(tmp_path / "log.parquet")

    def unknown(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        return best(frame, params).replace({"item_id": {"5": "new"}})

    with pytest.raises(GateError, match=r"log.parquet cannot judge challenger: 50.00% .* never logged"):
        LoggedRewards(k=2).bound(path, contestant(unknown), 0.05)
    looked = case(evaluation({"m": [1.0]}), evaluation({"m": [1.0]}), bandit_log=path)
    object.__setattr__(looked.challenger, "load", lambda: unknown)
    verdict = run_gates({"bound": OffPolicyBound(LoggedRewards(k=2))}, looked)[0]
    assert verdict.outcome == "error" and "never logged" in verdict.sentence
    with pytest.raises(LogError, match="`propensity` is 0 in row 0"):
        LoggedRewards().bound(log(tmp_path / "bad.parquet", propensity=0.0), contestant(), 0.05)
    bare = tmp_path / "bare.parquet"
    pd.read_parquet(path).drop(columns=["user_id", "history"]).to_parquet(bare)
    with pytest.raises(LogError, match="says nothing of who was asked"):
        LoggedRewards().bound(bare, contestant(), 0.05)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda answer: None, "must answer with a DataFrame"),
        (lambda answer: answer.assign(rank=answer["rank"] - 1), "ranks 1 to 2"),
        (lambda answer: answer.assign(request=answer["request"] + 1), "requests 0 to"),
        (lambda answer: answer.assign(score=np.nan), "not finite"),
        (lambda answer: answer.assign(rank=1), "two items of one rank"),
        (lambda answer: answer.assign(item_id="5"), "one item twice"),
        (lambda answer: answer.assign(rank=np.nan), "`rank` of an answer must hold integers"),
    ],
)
def test_answers_that_are_none(broken: Any, said: str, tmp_path: Path) -> None:
    def answers(frame: pd.DataFrame, params: dict[str, Any]) -> Any:
        return broken(best(frame, params))

    with pytest.raises(AnswerError, match=said):
        LoggedRewards(k=2).bound(log(tmp_path / "log.parquet", 50), contestant(answers), 0.05)


def test_candidates_are_the_only_items_that_are_ordered(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = log(tmp_path / "log.parquet")
    frame = pd.read_parquet(path)
    offered = np.stack([np.zeros(3000, int), np.ones(3000, int), random.integers(2, ITEMS, 3000)], axis=1)
    frame["action"] = offered[np.arange(3000), random.integers(0, 3, 3000)]
    frame["reward"] = (random.random(3000) < CLICK[frame["action"]]).astype(float)
    frame.assign(candidates=list(offered), propensity=1 / 3).to_parquet(path)
    seen: list[list[str]] = []

    def first(asked: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        seen.extend(asked["candidates"])
        items = [max(candidates, key=int) for candidates in asked["candidates"]]
        return pd.DataFrame({"request": range(len(asked)), "item_id": items, "rank": 1, "score": 1.0})

    found = LoggedRewards(k=1).bound(path, contestant(first), 0.05)
    assert found.estimate == pytest.approx(CLICK[2:].mean(), abs=0.06)
    assert seen == [[str(item) for item in candidates] for candidates in offered]


def test_a_history_that_is_not_known_is_none(tmp_path: Path) -> None:
    path = log(tmp_path / "log.parquet", 300)
    frame = pd.read_parquet(path)
    frame.loc[7, "history"] = None
    frame.to_parquet(path)
    seen: list[Any] = []

    def first(asked: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        seen.extend(asked["history"])
        return pd.DataFrame({"request": range(len(asked)), "item_id": "5", "rank": 1, "score": 1.0})

    LoggedRewards(k=1).bound(path, contestant(first), 0.05)
    assert seen[7] is None and len(seen) == 300 and sum(history is None for history in seen) == 1


def test_a_file_of_gates_names_its_parts(tmp_path: Path) -> None:
    off_policy = "recsys.simulation.off_policy"
    (tmp_path / "gates.yaml").write_text(
        f"""
gates:
  - class_path: recsys.tracking.gates.off_policy_bound.OffPolicyBound
    init_args:
      of_logged: 1.02
      estimator:
        class_path: recsys.tracking.gates.logged_rewards.LoggedRewards
        init_args:
          k: 5
          choice: {{class_path: {off_policy}.choices.Softmax, init_args: {{temperature: 0.5}}}}
          estimator: {{class_path: {off_policy}.doubly_robust.DoublyRobust}}
          lower: {{class_path: {off_policy}.intervals.Bootstrap, init_args: {{resamples: 500}}}}
          limits: {{unsupported: 0.05}}
          columns: {{action: item}}
"""
    )
    (gate,) = GateRules.read(tmp_path / "gates.yaml").build().values()
    made = gate.estimator  # type: ignore[attr-defined]
    assert (made.k, made.choice.temperature, made.lower.resamples) == (5, 0.5, 500)
    assert isinstance(made.estimator, DoublyRobust)
    assert made.limits.unsupported == 0.05 and made.columns.action == "item"
    with pytest.raises(GateError, match="one item at least"):
        LoggedRewards(k=0)
