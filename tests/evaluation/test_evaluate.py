from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import EvaluationError, compare_evaluations
from recsys.evaluation.tasks import Task
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, HeldOut, LeaveLastOut, Split, SplitRule, UserHoldout
from tests.evaluation.conftest import Personal

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out trains on events later")


Row = tuple[int, int, int, int, list[int]]
"""User, query, the ends of the history, and target events."""


def rows_by_hand(split: Split, part: HeldOut, task: Task | None) -> list[Row]:
    rows: list[Row] = []
    query = split.log.columns.get("query", np.zeros(split.log.n_events, int)).tolist()
    for user, start, end, first, last in zip(*(array.tolist() for array in part.arrays()), strict=True):
        events = list(range(first, last))
        if task == "search":
            for event in sorted(events, key=lambda e: (query[e], e)):
                if query[event]:
                    same = [e for e in events if query[e] == query[event]]
                    rows.append((user, query[event], start, end, [event] + [e for e in same if e != event]))
            continue
        if task == "recommendation":
            events = [e for e in events if not query[e]]
        if events:
            rows.append((user, 0, start, end, events))
    return rows


def by_hand(
    split: Split, rows: list[Row], table: np.ndarray, filter_seen: bool, exclude_cold: bool, k: int
) -> tuple[list[float], list[float]]:
    """HR and NDCG at k, one row after the other."""
    items = split.log.item_id
    trained = {
        int(items[e])
        for u in range(split.log.n_users + 1)
        for e in range(int(split.train_start[u]), int(split.train_end[u]))
    }
    hit, ndcg = [], []
    for user, query, start, end, targets in rows:
        seen = {int(items[e]) for e in range(start, end)}
        wanted = {int(items[e]) for e in targets}
        if filter_seen:
            wanted -= seen
        if exclude_cold:
            wanted &= trained
        candidates = [i for i in range(1, split.log.n_items + 1) if not (filter_seen and i in seen)]
        best = sorted(candidates, key=lambda i: -table[query, user, i])[:k]
        gains = [1 / math.log2(r + 2) for r, item in enumerate(best) if item in wanted]
        ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
        hit.append(float(bool(gains)) if wanted else math.nan)
        ndcg.append(sum(gains) / ideal if wanted else math.nan)
    return hit, ndcg


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("rule", [LeaveLastOut(), LeaveLastOut(refit=True), GlobalTime(0.2, 0.2), UserHoldout(0.3)])
def test_equals_a_loop_over_users(log: EventLog, rule: SplitRule, filter_seen: bool) -> None:
    split = rule(log)
    model = Personal(log)
    found = evaluate(model, split, ks=(3, 10), filter_seen=filter_seen, batch_users=7, top=15, max_length=5)
    rows = rows_by_hand(split, split.test, None)
    for k in (3, 10):
        hit, ndcg = by_hand(split, rows, model.table[0].numpy(), filter_seen, isinstance(rule, GlobalTime), k)
        np.testing.assert_allclose(found.metrics[f"HR@{k}"], hit)
        np.testing.assert_allclose(found.metrics[f"NDCG@{k}"], ndcg, atol=1e-6)
    assert found.facts["judged_users"] == np.count_nonzero(~np.isnan(found.metrics["HR@3"]))
    assert found.users.tolist() == split.test.users.tolist()
    assert found.means()["NDCG@10"] == pytest.approx(np.nanmean(ndcg))


@pytest.mark.parametrize("task", ["recommendation", "search"])
@pytest.mark.parametrize("rule", [LeaveLastOut(), GlobalTime(0.4, 0.2)])
def test_a_task_equals_a_loop_over_its_requests(search_log: EventLog, rule: SplitRule, task: Task) -> None:
    split = rule(search_log)
    model = Personal(search_log)
    found = evaluate(model, split, task=task, ks=(3, 10), batch_users=7, top=15, max_length=5)
    rows = rows_by_hand(split, split.test, task)
    assert found.users.tolist() == [row[0] for row in rows]
    for k in (3, 10):
        hit, ndcg = by_hand(split, rows, model.table[0].numpy(), True, isinstance(rule, GlobalTime), k)
        np.testing.assert_allclose(found.metrics[f"HR@{k}"], hit)
        np.testing.assert_allclose(found.metrics[f"NDCG@{k}"], ndcg, atol=1e-6)
    asked, judged = {row[0] for row in rows}, ~np.isnan(found.metrics["HR@3"])
    assert {key: found.facts[key] for key in ("task", "users", "requests", "judged_users", "judged_requests")} == {
        "task": task,
        "users": len(asked),
        "requests": len(rows),
        "judged_users": len(set(found.users[judged].tolist())),
        "judged_requests": int(judged.sum()),
    }
    assert found.facts["other_task_events"] == split.test.n_targets - len({e for row in rows for e in row[4]})
    assert (task == "search") == any(code for codes in model.codes for code in codes)


def test_without_a_task_nobody_searches(search_log: EventLog) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    model = Personal(search_log)
    found = evaluate(model, split, ks=(5,))
    assert found.users.tolist() == split.test.users.tolist() and found.facts["task"] is None
    assert found.facts["other_task_events"] == 0
    assert not any(code for codes in model.codes for code in codes)
    assert all(batch.request_query is None and batch.queries is not None for batch in model.asked)


def test_tasks_are_not_compared_with_each_other(search_log: EventLog) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    model = Personal(search_log)
    search, recommendation, everything = (
        evaluate(model, split, task=task, ks=(5,)) for task in ("search", "recommendation", None)
    )
    for first, second in ((search, recommendation), (recommendation, everything), (everything, search)):
        with pytest.raises(EvaluationError, match="task is"):
            compare_evaluations(first, second)
    itself = compare_evaluations(search, search, resamples=50)["NDCG@5"]
    assert itself.difference.users == search.facts["judged_users"] < search.facts["judged_requests"]


def test_reranking_orders_what_was_retrieved_by_candidate_scores(search_log: EventLog) -> None:
    split = LeaveLastOut()(search_log)
    model = Personal(search_log)
    found = evaluate(model, split, task="search", ks=(5,), rerank=12, top=8, batch_users=7)
    first, second = model.table.numpy()
    lists = {}
    for user, query, start, end, _ in rows_by_hand(split, split.test, "search"):
        seen = set(split.log.item_id[start:end].tolist())
        unseen = [i for i in range(1, split.log.n_items + 1) if i not in seen]
        retrieved = sorted(unseen, key=lambda i: -first[query, user, i])[:12]
        lists[user] = sorted(retrieved, key=lambda i: -second[query, user, i])[:8]
    expected = [lists[user] + [0] * (8 - len(lists[user])) for user in found.users.tolist()]
    assert found.ranked.tolist() == expected
    alone = evaluate(model, split, task="search", ks=(5,), top=8)
    assert compare_evaluations(alone, found, resamples=50)["HR@5"].difference.users == alone.facts["judged_users"]
    assert (alone.facts["rerank"], found.facts["rerank"]) == (None, 12)


def test_equal_scores_of_the_second_stage_leave_the_order_of_retrieval(log: EventLog) -> None:
    split = LeaveLastOut()(log)
    model = Personal(log)
    model.table[1] = 1.0
    reranked = evaluate(model, split, ks=(5,), rerank=40, top=10)
    assert np.array_equal(reranked.ranked, evaluate(model, split, ks=(5,), top=10).ranked)
    assert reranked.facts["short_lists"] == 0
    whole = evaluate(model, split, ks=(5,), rerank=60, top=60)
    assert whole.facts["short_lists"] == len(split.test), "no list reaches 60 of 40 items, and the end stays empty"
    assert ((whole.ranked[:, 1:] > 0) <= (whole.ranked[:, :-1] > 0)).all()


def test_validation_and_cold_users_are_parts_of_their_own(log: EventLog) -> None:
    split = GlobalTime(0.2, 0.2)(log)
    model = Personal(log)
    validation = evaluate(model, split, which="validation", ks=(5,))
    assert validation.users.tolist() == split.validation.users.tolist()
    cold = evaluate(model, split, which="test_cold_users", ks=(5,))
    assert cold.facts["cold_users"] == len(cold.users) == len(split.test_cold_users) == 5
    assert (cold.history_length == 0).all()


def test_the_model_sees_the_newest_events_and_the_request_time(log: EventLog) -> None:
    split = GlobalTime(0.2, 0.2)(log)
    model = Personal(log).train()
    evaluate(model, split, ks=(5,), max_length=3, batch_users=10)
    assert model.training and not any(model.modes)
    row = {user: i for i, user in enumerate(split.test.users.tolist())}
    users = 0
    for batch in model.asked:
        for i, user in enumerate(batch.user_id.tolist()):
            at = row[user]
            start, end = int(split.test.history_start[at]), int(split.test.history_end[at])
            own = batch.item_id[batch.offsets[i] : batch.offsets[i + 1]].tolist()
            assert own == log.item_id[max(start, end - 3) : end].tolist()
            assert batch.request_timestamp is not None
            assert int(batch.request_timestamp[i]) == int(log.timestamp[split.test.target_start[at]])
            users += 1
    assert users == len(split.test)


def facts_log() -> EventLog:
    """a, b, c train; d occurs only as user 1's last event; user 2's last event repeats a."""
    rows = [("u1", "a", 1), ("u1", "b", 2), ("u1", "d", 9), ("u2", "a", 1), ("u2", "c", 2), ("u2", "a", 9)]
    rows += [("u3", "c", 1), ("u3", "a", 2), ("u3", "b", 9)]
    return EventLog.from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]), Schema(name="facts"))


def test_cold_and_seen_targets_are_counted_not_hidden() -> None:
    log = facts_log()
    split = LeaveLastOut(refit=True)(log)
    model = Personal(log)
    miss = evaluate(model, split, ks=(4,), top=4)
    assert {key: miss.facts[key] for key in ("users", "judged_users", "seen_targets", "cold_item_targets")} == {
        "users": 3,
        "judged_users": 2,
        "seen_targets": 1,
        "cold_item_targets": 1,
    }
    assert miss.metrics["HR@4"].tolist()[0] == 1.0  # the cold item is in the list of all four items
    assert math.isnan(miss.metrics["HR@4"].tolist()[1])
    excluded = evaluate(model, split, ks=(4,), top=4, cold_targets="exclude")
    assert excluded.facts["judged_users"] == 1
    assert 0 in excluded.targets.decile, "the table keeps the cold item"
    repeated = evaluate(model, split, ks=(4,), top=4, filter_seen=False)
    assert repeated.facts["seen_targets"] == 1 and repeated.facts["judged_users"] == 3
    assert miss.facts["short_lists"] == 3, "with the history filtered fewer than four items are left"


def test_what_cannot_be_judged_is_refused(log: EventLog) -> None:
    split = LeaveLastOut(refit=True)(log)
    with pytest.raises(ValueError, match="no user in `validation`"):
        evaluate(Personal(log), split, which="validation")
    with pytest.raises(ValueError, match="the log has no queries; name their column"):
        evaluate(Personal(log), split, task="search")
    with pytest.raises(ValueError, match="cut-off 50"):
        evaluate(Personal(log), split, top=20)
    with pytest.raises(ValueError, match="rerank 20 is less than top 100"):
        evaluate(Personal(log), split, rerank=20)
    broken = Personal(log)
    broken.table[1, :, :, 3] = math.nan
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        evaluate(broken, split, rerank=100)
    broken.n_items += 1
    with pytest.raises(ValueError, match="another log trained it"):
        evaluate(broken, split)


def test_a_task_without_requests_is_refused(search_log: EventLog) -> None:
    frame = search_log.to_frame()
    frame["query"] = np.where(frame["timestamp"] < 900, frame["query"], None)
    split = GlobalTime(0.05, 0.05)(EventLog.from_frame(frame, search_log.schema))
    with pytest.raises(ValueError, match="no target of task `search` in `test`"):
        evaluate(Personal(split.log), split, task="search")
