"""Asked by names a model gets the numbers of `evaluate`, and answers that are no lists are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.given_requests import given_set
from recsys.evaluation.result import Evaluation, EvaluationError, compare_evaluations
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, LeaveLastOut, Split
from recsys.models.als import ALS
from recsys.models.popularity import DecayedPopularity
from recsys.models.recommender import Recommender
from recsys.models.synergen import SynerGen
from recsys.tracking.bundle import Bundle
from recsys.tracking.bundle_server import BundleServer, ServingParams
from recsys.tracking.pyfunc_evaluation import AnswerError, evaluate_pyfunc

WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil", "balm"])
LENGTH = 4  # of what the network reads; histories are longer


@pytest.fixture(scope="module")
def log() -> EventLog:
    """40 users, 60 items, half of the events answers to queries, two kinds of actions."""
    random = np.random.default_rng(0)
    users = np.repeat([f"u{number}" for number in range(40)], random.integers(8, 20, 40))
    events = pd.DataFrame({"user_id": users, "item_id": random.integers(100, 160, len(users))})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    asked = random.random(len(events)) < 0.5
    events["query"] = pd.Series(WORDS[random.integers(0, len(WORDS), len(events))]).where(asked)
    events["action"] = random.choice(["view", "buy"], len(events))
    items = pd.DataFrame({"item_id": np.arange(100, 160)})
    items["name"] = [" ".join(random.choice(WORDS, 3, replace=False)) for _ in range(60)]
    schema = {
        "name": "toy search",
        "title": "name",
        "events": {"query": "query", "action": "action"},
        "features": [
            {"name": "words", "column": "name", "type": "text"},
            {"name": "asked", "type": "text", "entity": "query", "table": "words"},
        ],
    }
    return EventLog.from_frame(events, Schema.parse(schema), items)


@pytest.fixture(scope="module")
def split(log: EventLog) -> Split:
    return GlobalTime(0.3, 0.1)(log)


def pyfunc_of(model: Recommender, split: Split, max_length: int | None, folder: Path) -> Any:
    """The model as MLflow loads it."""
    import mlflow

    from recsys.tracking.logged_model import save_model

    Bundle.of(model, split.log, split.hash, max_length).save(folder / "bundle")
    save_model(folder / "bundle", folder / "logged")
    return mlflow.pyfunc.load_model(str(folder / "logged"))


def assert_equal(found: Evaluation, expected: Evaluation) -> None:
    assert np.array_equal(found.users, expected.users)
    assert np.array_equal(found.ranked, expected.ranked)
    assert found.metrics.keys() == expected.metrics.keys()
    for name, values in expected.metrics.items():
        np.testing.assert_allclose(found.metrics[name], values, atol=1e-6, err_msg=name)
    assert found.exposure == pytest.approx(expected.exposure, abs=1e-6, nan_ok=True)
    for column, values in vars(expected.targets).items():
        assert np.array_equal(getattr(found.targets, column), values), column
    assert np.array_equal(found.history_length, expected.history_length)
    left = {"seconds", "users_per_s", "tie_seed", "max_length"}
    assert {n: v for n, v in expected.facts.items() if n not in left} == {
        n: v for n, v in found.facts.items() if n not in left | {"evaluation_set"}
    }


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_searches_and_ranks(split: Split, tmp_path: Path) -> None:
    """Queries, times, and actions of histories count: without one of them the lists would be others."""
    torch.manual_seed(0)
    network = SynerGen(Catalogue.from_split(split, LENGTH), width=16, layers=1, heads=2, ranking=True).eval()
    with torch.no_grad():  # an untrained network tells events apart by their items almost alone
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model = pyfunc_of(network, split, LENGTH, tmp_path)
    frozen = EvaluationSet.of(split)
    for task in frozen.tasks:
        for rerank in (None, 30):
            settings = {"task": task, "ks": (5, 10), "top": 20}
            expected = evaluate(network, split, max_length=LENGTH, rerank=rerank, **settings)
            found = evaluate_pyfunc(model, frozen, retrieve=rerank or 0, batch_requests=16, **settings)
            assert_equal(found, expected)
            same = compare_evaluations(expected, found, resamples=20)
            assert all(abs(comparison.difference.mean) < 1e-6 for comparison in same.values())
            if task == "search":
                poorer = ["time", "history_queries", "history_actions"] if rerank else ["query", "history_times"]
                for column in poorer:

                    def without(frame: pd.DataFrame, params: Any, column: str = column) -> pd.DataFrame:
                        return model.predict(frame.drop(columns=column), params=params)

                    other = evaluate_pyfunc(without, frozen, retrieve=rerank or 0, **settings)
                    assert (other.ranked != expected.ranked).any(), column


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("model", [ALS(factors=8), DecayedPopularity(1.0)], ids=lambda m: type(m).__name__)
def test_models_that_are_fitted(log: EventLog, model: Any, filter_seen: bool, tmp_path: Path) -> None:
    split = LeaveLastOut()(log)
    model.fit(split)
    frozen = EvaluationSet.of(split, tasks=[None], filter_seen=filter_seen)
    frozen.save(tmp_path / "set")
    server = BundleServer(Bundle.of(model, split.log, split.hash), "1")

    def answer(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        return server.answer(frame, ServingParams(**params))

    found = evaluate_pyfunc(answer, EvaluationSet.load(tmp_path / "set"), ks=(5,), top=100)
    assert_equal(found, evaluate(model, split, ks=(5,), top=100, filter_seen=filter_seen))
    assert found.facts["evaluation_set"] == frozen.fingerprint
    assert found.facts["short_lists"] == len(found.users), "of 60 items no list reaches 100"


def test_a_sample_is_judged_like_those_users_alone(log: EventLog) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = LeaveLastOut()(log)
    everybody, drawn = EvaluationSet.of(split), EvaluationSet.of(split, users=15, seed=1)
    whole, part = (evaluate_pyfunc(first_items, s, task="search", ks=(5,), top=10) for s in (everybody, drawn))
    own = np.isin(whole.users, part.users)
    assert 0 < own.sum() < len(own)
    assert np.array_equal(whole.metrics["NDCG@5"][own], part.metrics["NDCG@5"], equal_nan=True)
    with pytest.raises(EvaluationError, match="judge different users"):
        compare_evaluations(whole, part)


def first_items(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
    """The k items with the smallest numbers that the history does not hold."""
    rows = []
    for row, history in enumerate(frame["history"]):
        items = [str(item) for item in range(100, 160) if str(item) not in set(history)][: params["k"]]
        rows += [(row, item, rank, 1.0 / rank) for rank, item in enumerate(items, 1)]
    return pd.DataFrame(rows, columns=["request", "item_id", "rank", "score"])


REQUESTS = pd.DataFrame(
    {
        "user_id": ["u", "v", "w"],
        "history": [["a"], ["a"], ["b"]],
        "relevant": [["c"], ["e", "b"], ["d"]],
    }
)
ITEMS = pd.DataFrame({"item_id": list("abcdef"), "training_events": [5, 4, 3, 2, 1, 0]})
ANSWER = [(0, "c", 1, 9.0), (0, "d", 2, 8.0), (1, "b", 1, 9.0), (1, "c", 2, 8.0), (1, "e", 3, 7.0)]


def answering(rows: list[tuple]) -> Callable[[pd.DataFrame, dict[str, Any]], pd.DataFrame]:
    def model(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        assert params == {"k": 3, "filter_seen": True, "retrieve": 0}
        assert list(frame) == ["user_id", "history"]
        return pd.DataFrame(rows, columns=["request", "item_id", "rank", "score"])

    return model


def test_short_and_empty_lists_are_lists() -> None:
    rows = [ANSWER[at] for at in (3, 0, 4, 1, 2)]  # in any order
    found = evaluate_pyfunc(answering(rows), given_set(REQUESTS, ITEMS), ks=(1, 3), top=3, name="mine")
    assert found.ranked.tolist() == [[3, 4, 0], [2, 3, 5], [0, 0, 0]]
    assert found.metrics["HR@1"].tolist() == [1, 1, 0] and found.metrics["Recall@3"].tolist() == [1, 1, 0]
    assert found.facts["short_lists"] == 2 and found.model == "mine"
    nothing = evaluate_pyfunc(answering([]), given_set(REQUESTS, ITEMS), ks=(1,), top=3)
    assert nothing.means()["HR@1"] == 0 and nothing.model == "model"


@pytest.mark.parametrize(
    ("place", "row", "message"),
    [
        (1, (0, "z", 2, 8.0), "request 0, of user `u`, with item `z`, which is not in the catalogue"),
        (1, (0, 4, 2, 8.0), r"item `4`, which is not in the catalogue .*names are strings"),
        (3, (1, "b", 2, 8.0), "request 1, of user `v`, with item `b` twice"),
        (3, (1, "a", 2, 8.0), "request 1, of user `v`, with item `a`, which its history holds"),
        (3, (1, "c", 2, np.nan), "request 1, of user `v`, with a score of item `c` that is NaN"),
        (0, (0, "c", 1, np.inf), "request 0, of user `u`, with a score of item `c`"),
        (0, (0, "c", 0, 9.0), "request 0, of user `u`, with rank 0 where another follows"),
        (1, (0, "d", 3, 8.0), "request 0, of user `u`, with rank 3 where another follows"),
        (1, (0, "d", 1, 8.0), "request 0, of user `u`, with rank 1 where another follows"),
        (4, (1, "e", 4, 7.0), "request 1, of user `v`, with rank 4, and 3 items were asked for"),
        (4, (3, "e", 1, 7.0), "answers request 3 of a frame with 3"),
        (4, (-1, "e", 1, 7.0), "answers request -1 of a frame with 3"),
        (4, (1, "e", 2.5, 7.0), "column `rank` of an answer must hold integers"),
        (4, (None, "e", 3, 7.0), "column `request` of an answer must hold integers"),
    ],
)
def test_answers_that_are_no_lists(place: int, row: tuple, message: str) -> None:
    rows = [*ANSWER[:place], row, *ANSWER[place + 1 :]]
    with pytest.raises(AnswerError, match=message):
        evaluate_pyfunc(answering(rows), given_set(REQUESTS, ITEMS), ks=(1,), top=3)


def test_the_request_that_is_named_is_that_of_the_set() -> None:
    """Batches are cut in order of history length: user w, who has none, is asked first."""

    def model(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        item = "z" if frame["user_id"].iloc[0] == "w" else "f"
        return pd.DataFrame({"request": [0], "item_id": [item], "rank": [1], "score": [1.0]})

    with pytest.raises(AnswerError, match="request 2, of user `w`, with item `z`"):
        shorter = REQUESTS.assign(history=[["a", "b"], ["a"], []])
        evaluate_pyfunc(model, given_set(shorter, ITEMS), ks=(1,), top=3, batch_requests=1)


def test_seen_items_are_lists_where_they_are_not_filtered() -> None:
    def model(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        assert params["filter_seen"] is False
        rows = range(len(frame))
        return pd.DataFrame({"request": rows, "item_id": "a", "rank": 1, "score": 1.0})

    found = evaluate_pyfunc(model, given_set(REQUESTS, ITEMS, filter_seen=False), ks=(1,), top=1)
    assert (found.ranked == 1).all()


def test_what_cannot_be_asked() -> None:
    frozen = given_set(REQUESTS, ITEMS)
    with pytest.raises(AnswerError, match="must answer with a DataFrame of request, item_id, rank, score, not with"):
        evaluate_pyfunc(lambda frame, params: [["c"]], frozen, ks=(1,), top=3)
    with pytest.raises(AnswerError, match="not with the columns request, item_id"):
        evaluate_pyfunc(lambda frame, params: pd.DataFrame({"request": [0], "item_id": ["c"]}), frozen, ks=(1,), top=3)
    with pytest.raises(ValueError, match="cut-off 10"):
        evaluate_pyfunc(answering(ANSWER), frozen, top=3)
    with pytest.raises(ValueError, match="retrieve 2 is less than top 3"):
        evaluate_pyfunc(answering(ANSWER), frozen, ks=(1,), top=3, retrieve=2)
    with pytest.raises(EvaluationError, match="no requests of task `search`"):
        evaluate_pyfunc(answering(ANSWER), frozen, ks=(1,), top=3, task="search")
