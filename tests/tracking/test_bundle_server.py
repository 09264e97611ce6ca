"""Answers to the rows of a frame: those that the bundle and the judge give, whatever the rest of the frame asks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.tasks import requests
from recsys.models.popularity import Popularity
from recsys.tracking import bundle_server
from recsys.tracking.bundle import Bundle, QueryError
from recsys.tracking.bundle_server import BundleServer, ServingParams
from recsys.tracking.history import History
from recsys.tracking.serving_requests import ServingError, ServingRequests
from tests.tracking.served import ITEMS, LENGTH, MODELS, Served, factors, fitted, frame_of, raw, served, synergen

COLUMNS = ["request", "user_id", "item_id", "rank", "score", "model_version"]


@pytest.fixture(scope="module", params=MODELS)
def any_model(request: pytest.FixtureRequest) -> Served:
    return served(MODELS[request.param], queries=request.param == "synergen", integers=request.param != "als")


@pytest.fixture(scope="module")
def searching() -> Served:
    return served(synergen)


@pytest.fixture(scope="module")
def popularity() -> Served:
    return served(fitted(Popularity()), queries=False)


@pytest.fixture(scope="module")
def by_id() -> Served:
    return served(factors, queries=False)


def lists(answers: pd.DataFrame, rows: int) -> list[list[str]]:
    assert answers.columns.tolist() == COLUMNS and answers["request"].is_monotonic_increasing
    by_row = [answers[answers["request"] == row] for row in range(rows)]
    for part in by_row:
        assert part["rank"].tolist() == list(range(1, len(part) + 1)) and part["score"].is_monotonic_decreasing
        assert part["item_id"].is_unique
    return [part["item_id"].tolist() for part in by_row]


def test_answers_are_those_of_the_bundle(any_model: Served) -> None:
    users = range(1, 25)
    past = [History.of_user(any_model.log, user) for user in users]
    if any_model.bundle.users is None:
        past = [History(h.items, h.times, 0, h.queries, h.actions) for h in past]
    ranks = any_model.bundle.model.ranks
    texts = ["red soap" if user % 2 else None for user in users] if ranks else None
    expected = any_model.bundle.recommend(past, 6, queries=texts, retrieve=15 if ranks else None)
    frame = frame_of(any_model, users)
    if texts is not None:
        frame["query"] = texts
    answers = any_model.server.answer(frame, ServingParams(k=6, retrieve=15))
    assert lists(answers, len(users)) == [raw(any_model, row[row > 0]) for row in expected.items.numpy()]
    finite = torch.isfinite(expected.scores)
    np.testing.assert_allclose(answers["score"], expected.scores[finite].double(), rtol=1e-5, atol=1e-6)
    assert answers["user_id"].tolist() == frame["user_id"].repeat([6] * len(users)).tolist()
    assert set(answers["model_version"]) == {"7"}
    assert answers.dtypes.map(str).tolist()[:1] + answers.dtypes.map(str).tolist()[3:5] == ["int64", "int64", "float64"]


@pytest.mark.parametrize("task", ["search", "recommendation"])
@pytest.mark.parametrize("rerank", [None, 20])
def test_requests_of_a_split_get_the_lists_by_which_the_model_is_judged(searching, task, rerank) -> None:
    log, split = searching.log, searching.split
    judged = evaluate(
        searching.bundle.model, split, task=task, ks=(5,), top=10, rerank=rerank, max_length=LENGTH, filter_seen=True
    )
    asked = requests(split, "test", task)
    rows = []
    for user, start, end, target in zip(
        asked.users, asked.history_start, asked.history_end, asked.targets.values[asked.targets.offsets[:-1]],
        strict=True,
    ):  # fmt: skip
        whole, at = History.of_user(log, user), slice(start - log.offsets[user], end - log.offsets[user])
        code = log.columns["query"][target]
        rows.append(
            {
                "history": raw(searching, whole.items[at]),
                "history_times": whole.times[at].tolist(),
                "history_queries": [text or "" for text in whole.queries[at]],
                "history_actions": [log.vocabularies["action"].values[c - 1] for c in whole.actions[at]],
                "query": log.vocabularies["query"].values[code - 1] if task == "search" else None,
                "time": int(log.timestamp[target]),
            }
        )
    answers = searching.server.answer(pd.DataFrame(rows), ServingParams(k=10, retrieve=rerank or 0))
    assert lists(answers, len(rows)) == [raw(searching, row[row > 0]) for row in judged.ranked]
    without = pd.DataFrame(rows).drop(columns=["history_queries", "history_actions"])
    other = searching.server.answer(without, ServingParams(k=10, retrieve=rerank or 0))
    assert other["score"].tolist() != answers["score"].tolist()  # they are read


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(12)))
def test_the_order_of_requests_does_not_matter(searching: Served, order: list[int]) -> None:
    frame = frame_of(searching, range(1, 13))
    frame["query"] = ["red" if row % 3 == 0 else None for row in range(12)]
    frame["candidates"] = [["100", "107", "113", "121"] if row % 4 == 1 else None for row in range(12)]
    params = ServingParams(k=5, retrieve=12)
    straight, shuffled = searching.server.answer(frame, params), searching.server.answer(frame.iloc[order], params)
    expected = lists(straight, 12)
    assert lists(shuffled, 12) == [expected[row] for row in order]
    back = shuffled.assign(request=np.array(order)[shuffled["request"]]).sort_values(["request", "rank"])
    np.testing.assert_allclose(back["score"], straight["score"], rtol=1e-5, atol=1e-6)


def test_blocks_of_requests_change_nothing(any_model: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = frame_of(any_model, range(1, 20))
    frame["candidates"] = [raw(any_model, np.arange(1, 9)) if row % 2 else None for row in range(19)]
    whole = any_model.server.answer(frame, ServingParams(k=4))
    assert all(len(row) <= 4 for row in lists(whole, 19))
    monkeypatch.setattr(bundle_server, "_ROWS", 3)
    monkeypatch.setattr(bundle_server, "_CANDIDATES", 16)
    pd.testing.assert_frame_equal(any_model.server.answer(frame, ServingParams(k=4)), whole, rtol=1e-5)


def test_candidates_are_ordered_by_the_ranking(searching: Served) -> None:
    past = History.of_user(searching.log, 3)
    ids = np.array([5, 9, 2, 17, 9, 30, 11])
    frame = frame_of(searching, range(3, 4)).assign(query="red", candidates=[raw(searching, ids)], user_id=None)
    own = History(past.items, past.times, 0, past.queries, past.actions)
    batch = searching.bundle.batch([own], ["red"])
    distinct = torch.tensor([[5, 9, 2, 17, 30, 11]])
    scores = searching.bundle.model.candidate_scores(batch, distinct)[0]
    assert scores.tolist() != searching.bundle.model.scores(batch)[0][distinct[0]].tolist()  # the head decides
    expected = [item for _, item in sorted(zip((-scores).tolist(), distinct[0].tolist(), strict=True))]
    answers = searching.server.answer(frame, ServingParams(filter_seen=False))
    assert lists(answers, 1) == [raw(searching, np.array(expected))]
    np.testing.assert_allclose(answers["score"], scores.sort(descending=True)[0].double(), rtol=1e-5)
    assert lists(searching.server.answer(frame, ServingParams(k=2, filter_seen=False)), 1) == [
        raw(searching, np.array(expected[:2]))
    ]
    unseen = [item for item in expected if item not in past.items]
    assert len(unseen) < len(expected)
    assert lists(searching.server.answer(frame, ServingParams()), 1) == [raw(searching, np.array(unseen))]


@pytest.mark.parametrize("restricted", [False, True])
def test_allowed_and_denied_items(any_model: Served, restricted: bool) -> None:
    frame = frame_of(any_model, range(1, 7))
    if restricted:
        frame["candidates"] = [raw(any_model, np.arange(1, 31))] * 6
    everything = lists(any_model.server.answer(frame, ServingParams(k=ITEMS)), 6)
    allow, deny = raw(any_model, np.arange(1, 16)), raw(any_model, np.arange(10, 20))
    answers = any_model.server.answer(frame, ServingParams(k=3, allow=[*allow, "unknown"], deny=[*deny, "unknown"]))
    kept = [[item for item in row if item in allow and item not in deny][:3] for row in everything]
    assert lists(answers, 6) == kept and all(kept)
    denied = lists(any_model.server.answer(frame, ServingParams(k=4, deny=deny)), 6)
    assert denied == [[item for item in row if item not in deny][:4] for row in everything]
    seen = lists(any_model.server.answer(frame, ServingParams(k=3, filter_seen=False, allow=allow)), 6)
    assert any(set(row) & set(own) for row, own in zip(seen, frame["history"], strict=True))
    with pytest.raises(ServingError, match="allow: the model knows none of the items `x`, `y`"):
        any_model.server.answer(frame, ServingParams(allow=["x", "y"]))


def test_lists_are_as_long_as_there_are_items(any_model: Served) -> None:
    frame = frame_of(any_model, range(1, 3))
    got = lists(any_model.server.answer(frame, ServingParams(k=10**9, retrieve=10**9)), 2)
    unseen = [ITEMS - len(set(items)) for items in frame["history"]]
    assert [len(row) for row in got] == unseen
    none = any_model.server.answer(frame, ServingParams(deny=raw(any_model, np.arange(1, 31))))
    assert len(none) == 0 and none.columns.tolist() == COLUMNS
    empty = any_model.server.answer(frame.iloc[:0], ServingParams())
    assert len(empty) == 0 and empty.columns.tolist() == COLUMNS
    assert len(any_model.server.answer(frame.assign(candidates=[[], []]), ServingParams())) == 0


def test_who_is_not_known_gets_what_is_popular(any_model: Served) -> None:
    answers = any_model.server.answer(pd.DataFrame({"history": [[], []]}), ServingParams(k=ITEMS))
    popular = Popularity()
    popular.fit(any_model.split)
    score = popular.tensors["popularity"]
    ids = any_model.bundle.items.encode([int(i) if i.isdigit() else i for i in answers["item_id"]])
    assert [score[i] for i in ids[:ITEMS]] == sorted(score[1:].tolist(), reverse=True)
    assert answers["user_id"].isna().all()


def test_models_that_know_users(by_id: Served) -> None:
    server, users = by_id.server, by_id.log.users.decode([1, 2])
    with torch.no_grad():
        known, items = by_id.bundle.model.encode(torch.tensor([1, 2]), torch.arange(1, ITEMS + 1))
    best = ((known @ items.T).argsort(descending=True) + 1).numpy()
    alone = server.answer(pd.DataFrame({"user_id": [str(user) for user in users]}), ServingParams(k=5))
    assert lists(alone, 2) == [raw(by_id, row[:5]) for row in best]
    had = raw(by_id, best[0][:2])
    filtered = server.answer(pd.DataFrame({"user_id": [str(users[0])], "history": [had]}), ServingParams(k=3))
    assert lists(filtered, 1) == [raw(by_id, best[0][2:5])]
    strangers = server.answer(pd.DataFrame({"user_id": ["-1", "0501", "someone", "99999"]}), ServingParams(k=3))
    nobody = server.answer(pd.DataFrame({"history": [[]]}), ServingParams(k=3))
    assert lists(strangers, 4) == lists(nobody, 1) * 4
    with pytest.raises(ServingError, match="row 1: MatrixFactorization knows users by their ids and reads no history"):
        server.answer(pd.DataFrame({"user_id": ["500", None], "history": [["100"], ["100"]]}), ServingParams())
    nameless = BundleServer(Bundle(**{**vars(by_id.bundle), "users": None}), "7")
    with pytest.raises(ServingError, match="saved before names of users were kept"):
        nameless.answer(pd.DataFrame({"user_id": ["500"], "history": [["100"]]}), ServingParams())


def test_unknown_items_of_a_history_are_left_out(searching: Served, caplog: pytest.LogCaptureFixture) -> None:
    known = frame_of(searching, range(5, 6))
    fields = ("history", "history_times", "history_queries", "history_actions")
    more = {"history": ["zzz", "0101"], "history_times": [0, 1], "history_queries": ["", "red"]}
    more["history_actions"] = ["buy", "view"]
    with_unknown = known.assign(**{name: [more[name][:1] + known[name][0]] for name in fields})
    with caplog.at_level(logging.WARNING):
        answers = searching.server.answer(with_unknown, ServingParams())
    pd.testing.assert_frame_equal(answers, searching.server.answer(known, ServingParams()))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == f"1 of {len(known['history'][0]) + 1} items of histories are unknown to the model and left out"
    assert lists(searching.server.answer(pd.DataFrame({"history": [["0101"]]}), ServingParams(k=3)), 1) == lists(
        searching.server.answer(pd.DataFrame({"history": [[]]}), ServingParams(k=3)), 1
    )  # 0101 is not 101


def test_times_that_are_not_known_stand_apart_as_a_rule(searching: Served) -> None:
    gap = searching.bundle.gap
    items = ["101", "102", "103"]
    frame = pd.DataFrame({"history": [items, ["zzz", *items], items], "history_times": [None, None, [5, 5, 9]]})
    read = ServingRequests.read(frame, searching.bundle)
    assert [h.times.tolist() for h in read.histories] == [[0, gap, 2 * gap], [0, gap, 2 * gap], [5, 5, 9]]
    assert read.times is None
    later = ServingRequests.read(frame.assign(time=pd.array([None, 77, None], dtype="Int64")), searching.bundle)
    assert later.times.tolist() == [2 * gap, 77, 9]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["a", "b"]}, "row 0: SynerGen cannot tell user `a` by id; give `history`, what user `a` had"),
        ({"history": [["101"], None]}, r"row 1: says nothing of who asks; give `history` \(\[\] for somebody new\)$"),
        ({"history": [["101"], ["102"]], "candidates": [None, ["103", "x", "9"]]}, "row 1: .* candidates `x`, `9`"),
        ({"history": [["101"], ["101", "102"]], "history_times": [[1], [2]]}, "row 1: 1 values in `history_times` for"),
        (
            {"history": [["101"], ["101", "102"]], "history_times": [[9], [2, 1]]},
            "row 1: `history_times` must not fall",
        ),
        ({"history": [["101"], []], "history_queries": [None, ["x"]]}, "row 1: 1 values in `history_queries` for 0"),
        ({"history": [["101"], ["102", None]]}, "row 1: a missing value in `history`"),
        ({"history": [[101], ["102"]]}, "column `history`: holds something other than list"),
        ({"history": [["101"], "102"]}, "column `history`: holds strings; give a list of them"),
        ({"history": [["101"], []], "history_times": [["x"], None]}, "column `history_times`: holds something other"),
        ({"history": [["101"], []], "query": [1.5, None]}, "column `query`: holds something other than string"),
    ],
)
def test_requests_that_are_refused(searching: Served, columns: dict, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        searching.server.answer(pd.DataFrame(columns), ServingParams())


def test_times_of_neighbouring_rows_may_fall(searching: Served) -> None:
    frame = pd.DataFrame({"history": [["101", "102"], ["103"]], "history_times": [[8, 9], [1]]})
    assert len(lists(searching.server.answer(frame, ServingParams(k=1)), 2)) == 2


def test_what_a_call_may_ask(popularity: Served) -> None:
    for wrong in ({"k": 0}, {"retrieve": -1}):
        with pytest.raises(ServingError, match="k must be at least 1 and retrieve at least 0"):
            ServingParams(**wrong)
    with pytest.raises(ServingError, match="deny: must hold strings"):
        popularity.server.answer(pd.DataFrame({"history": [[]]}), ServingParams(deny=[1]))
    with pytest.raises(QueryError, match="the model reads no queries"):
        popularity.server.answer(pd.DataFrame({"history": [[]], "query": ["red"]}), ServingParams())


def test_a_query_alone_is_a_search_of_somebody_new(searching: Served) -> None:
    alone = searching.server.answer(pd.DataFrame({"query": ["red soap"]}), ServingParams(k=4))
    nobody = searching.bundle.history(np.zeros(0, dtype=np.int64))
    expected = searching.bundle.recommend([nobody], 4, queries=["red soap"]).items[0].numpy()
    assert lists(alone, 1) == [raw(searching, expected)]


def test_lists_may_be_arrays_as_parquet_has_them(searching: Served, tmp_path: Path) -> None:
    frame = frame_of(searching, range(1, 4))
    frame.to_parquet(tmp_path / "requests.parquet")
    read = pd.read_parquet(tmp_path / "requests.parquet")
    assert isinstance(read["history"][0], np.ndarray)
    pd.testing.assert_frame_equal(
        searching.server.answer(read, ServingParams()), searching.server.answer(frame, ServingParams())
    )


def test_item_vectors_are_computed_once(searching: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    vectors = type(searching.bundle.model).item_vectors
    monkeypatch.setattr(
        type(searching.bundle.model), "item_vectors", lambda self, ids=None: calls.append(1) or vectors(self, ids)
    )
    frame = frame_of(searching, range(1, 4))
    for _ in range(3):
        searching.server.answer(frame, ServingParams(deny=["101"]))
    assert not calls
    searching.server.answer(frame, ServingParams(allow=["101", "102"]))
    assert calls == [1]
