"""A frozen evaluation set says in names what the split says in codes, and is refused when somebody touched it."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.given_requests import given_set
from recsys.evaluation.requests_table import digest
from recsys.evaluation.result import EvaluationError
from recsys.evaluation.tasks import Task, tasks_of
from recsys.features.event_log import EventLog
from recsys.features.schema import EventColumns, Schema
from recsys.features.splits import GlobalTime, LeaveLastOut, SplitRule
from tests.evaluation.conftest import Personal
from tests.evaluation.test_evaluate import rows_by_hand

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out trains on events later")


def raw(log: EventLog) -> pd.DataFrame:
    frame = log.to_frame().astype({"user_id": str, "item_id": str})
    if "query" in frame:
        frame["query"] = frame["query"].astype(object).where(frame["query"].notna(), None)
    return frame


@pytest.mark.parametrize("rule", [LeaveLastOut(), GlobalTime(0.4, 0.2)])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_rows_are_the_requests_of_the_split(search_log: EventLog, rule: SplitRule, filter_seen: bool) -> None:
    split = rule(search_log)
    frozen = EvaluationSet.of(split, filter_seen=filter_seen)
    assert frozen.tasks == tasks_of(split) == ("search", "recommendation")
    events, frame = raw(search_log), frozen.frame()
    for task in frozen.tasks:
        own = frame[frame["task"] == task]
        rows = rows_by_hand(split, split.test, task)
        assert len(own) == len(rows) == frozen.facts_of(task)["requests"]
        for found, (user, query, start, end, targets) in zip(own.itertuples(), rows, strict=True):
            past, wanted = events.iloc[start:end], events.iloc[targets]
            assert (found.user, found.user_id) == (user, wanted["user_id"].iloc[0])
            assert found.history.tolist() == past["item_id"].tolist()
            assert found.history_times.tolist() == past["timestamp"].tolist()
            assert found.history_queries.tolist() == [query or "" for query in past["query"]]
            assert found.time == wanted["timestamp"].iloc[0]
            assert found.query == wanted["query"].iloc[0] if query else pd.isna(found.query)
            expected = set(wanted["item_id"]) - (set(past["item_id"]) if filter_seen else set())
            assert sorted(found.relevant) == sorted(expected)
    counts = frozen.items.to_pandas().set_index("item_id")["training_events"]
    assert counts.to_dict() == {
        str(item): count for item, count in zip(search_log.items.values, split.train_counts()[1:], strict=True)
    }


@pytest.mark.parametrize("cold", ["exclude", "miss"])
@pytest.mark.parametrize("task", ["search", "recommendation"])
def test_rules_and_counts_are_those_of_an_evaluation(search_log: EventLog, task: Task, cold: str) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    frozen = EvaluationSet.of(split, cold_targets=cold)
    found = evaluate(Personal(search_log), split, task=task, cold_targets=cold, ks=(5,), top=10)
    facts = frozen.facts_of(task)
    assert facts == {name: found.facts[name] for name in facts} and facts["split_hash"] == split.hash
    relevance = frozen.relevance(task)
    assert len(relevance.judged.values) == found.facts["targets"]
    assert len(relevance.wanted.values) == len(found.targets.row)


def test_a_saved_set_is_the_same(search_log: EventLog, tmp_path: Path) -> None:
    frozen = EvaluationSet.of(LeaveLastOut()(search_log), users=20, seed=3, name="twenty")
    frozen.save(tmp_path / "set")
    again = EvaluationSet.load(tmp_path / "set")
    assert again.fingerprint == frozen.fingerprint and again.frame().equals(frozen.frame())
    assert (again.name, again.facts, again.sample) == ("twenty", frozen.facts, frozen.sample)
    assert frozen.sample == {"users": 20, "of": 65, "seed": 3}
    assert frozen.frame()["user"].nunique() == 20
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["fingerprint"] == frozen.fingerprint and manifest["split_hash"] == frozen.facts[0]["split_hash"]
    other = EvaluationSet.of(LeaveLastOut()(search_log))
    other.save(tmp_path / "set")  # takes its place
    assert EvaluationSet.load(tmp_path / "set").fingerprint == other.fingerprint != frozen.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_files_need_no_code_of_this_package(log: EventLog, tmp_path: Path) -> None:
    split = LeaveLastOut()(log)
    EvaluationSet.of(split).save(tmp_path / "set")
    query = f"select sum(len(history)), count(*), sum(len(relevant)) from '{tmp_path}/set/requests.parquet'"
    ((events, requests, relevant),) = duckdb.sql(query).fetchall()
    assert (events, requests) == ((split.test.history_end - split.test.history_start).sum(), len(split.test))
    assert relevant <= requests


@pytest.mark.parametrize("name", ["requests.parquet", "items.parquet"])
def test_altered_files_are_refused(log: EventLog, tmp_path: Path, name: str) -> None:
    EvaluationSet.of(LeaveLastOut()(log)).save(tmp_path / "set")
    content = bytearray((tmp_path / "set" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=f"{name}: altered"):
        EvaluationSet.load(tmp_path / "set")


def test_altered_rules_and_incomplete_folders_are_refused(log: EventLog, tmp_path: Path) -> None:
    EvaluationSet.of(LeaveLastOut()(log)).save(tmp_path / "set")
    manifest = tmp_path / "set" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"cold_targets": "miss"', '"cold_targets": "exclude"'))
    with pytest.raises(EvaluationError, match=r"manifest.json: altered"):
        EvaluationSet.load(tmp_path / "set")
    manifest.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(EvaluationError, match="format 2, this version reads 1"):
        EvaluationSet.load(tmp_path / "set")
    manifest.write_text(text)
    (tmp_path / "set" / "items.parquet").unlink()
    with pytest.raises(EvaluationError, match="no complete evaluation set"):
        EvaluationSet.load(tmp_path / "set")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "precious").touch()
    with pytest.raises(EvaluationError, match="is no evaluation set"):
        EvaluationSet.of(LeaveLastOut()(log)).save(tmp_path / "else")


def test_fingerprint_is_of_the_content_alone(log: EventLog) -> None:
    split = LeaveLastOut()(log)
    first, renamed = EvaluationSet.of(split), EvaluationSet.of(split, name="other")
    assert first.fingerprint == renamed.fingerprint
    seen = EvaluationSet.of(split, filter_seen=False)
    validation = EvaluationSet.of(split, "validation")
    drawn = [EvaluationSet.of(split, users=30, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0].fingerprint == drawn[1].fingerprint
    assert len({s.fingerprint for s in (first, seen, validation, drawn[0], drawn[2])}) == 5


def test_digest_does_not_depend_on_chunks_and_sees_every_value() -> None:
    texts, lists = ["ab", None, "", "c"], [["x", "yz"], [], None, ["xy", "z"]]
    table = pa.table({"text": texts, "list": lists, "number": [1, None, 3, 0]})
    cut = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3, 1)])
    assert digest(table) == digest(cut) == digest(table.combine_chunks())
    others = [
        {"text": ["a", "b", "", "c"]},  # the same letters
        {"text": ["ab", "", "", "c"]},  # a text in place of a missing one
        {"list": [["x", "yz"], [], [], ["xy", "z"]]},
        {"list": [["x", "y"], [], None, ["zxy", "z"]]},
        {"list": [["x"], ["yz"], None, ["xy", "z"]]},
        {"number": [1, 0, 3, 0]},
        {"number": [1, None, 3, 1]},
    ]
    columns = {"text": texts, "list": lists, "number": [1, None, 3, 0]}
    assert len({digest(table), *(digest(pa.table(columns | other)) for other in others)}) == len(others) + 1


def test_users_without_history_are_a_part_of_their_own(log: EventLog) -> None:
    split = GlobalTime(0.2, 0.2)(log)
    frozen = EvaluationSet.of(split, "test_cold_users")
    assert len(frozen.requests) == 5 and frozen.frame()["history"].str.len().eq(0).all()
    assert frozen.facts_of(None)["part"] == "test_cold_users"


def test_actions_travel_by_name() -> None:
    frame = pd.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [1, 2, 3, 3, 2, 1], "timestamp": range(6)})
    frame["what"] = ["view", None, "buy", "buy", "view", "view"]
    log = EventLog.from_frame(frame, Schema(name="acts", events=EventColumns(action="what")))
    frozen = EvaluationSet.of(LeaveLastOut()(log))
    assert [row.tolist() for row in frozen.frame()["history_actions"]] == [["view", ""], ["buy", "view"]]
    assert "history_queries" not in frozen.requests.column_names


def test_models_are_not_shown_the_answers(search_log: EventLog) -> None:
    frozen = EvaluationSet.of(LeaveLastOut()(search_log))
    shown = ["user_id", "history", "history_times", "history_queries", "time"]
    assert list(frozen.questions(frozen.rows("recommendation"))) == shown
    assert sorted(frozen.questions(frozen.rows("search"))) == sorted([*shown, "query"])


ITEMS = pd.DataFrame({"item_id": ["a", "b", "c", "d"], "training_events": [4, 2, 1, 0]})


def test_a_given_table_is_counted_like_a_split() -> None:
    asked = pd.DataFrame(
        {
            "user_id": ["u", "v", "u"],
            "history": [["a", "b"], ["gone"], ["a", "b"]],
            "task": ["recommendation", "recommendation", "search"],
            "query": [None, None, "tea"],
            "relevant": [["c", "b", "c"], ["d"], ["b"]],
        }
    )
    frozen = given_set(asked, ITEMS)
    keys = ("users", "requests", "judged_requests", "targets", "seen_targets", "cold_item_targets", "n_items")
    assert {key: frozen.facts_of("recommendation")[key] for key in keys} == dict(
        zip(keys, (2, 2, 2, 2, 1, 1, 4), strict=True)
    )
    assert {key: frozen.facts_of("search")[key] for key in keys} == dict(zip(keys, (1, 1, 0, 0, 1, 0, 4), strict=True))
    assert [row.tolist() for row in frozen.frame()["relevant"]] == [["c"], ["d"], []]
    assert frozen.users(np.arange(3)).tolist() == [1, 2, 1]
    kept = given_set(asked, ITEMS, filter_seen=False)
    assert [row.tolist() for row in kept.frame()["relevant"]] == [["b", "c"], ["d"], ["b"]]
    assert kept.facts_of("search")["split_hash"] != frozen.facts_of("search")["split_hash"]


def test_a_given_table_of_a_set_is_that_set(log: EventLog) -> None:
    frozen = EvaluationSet.of(LeaveLastOut()(log))
    again = given_set(frozen.frame(), frozen.items.to_pandas())
    assert digest(again.requests) == digest(frozen.requests)
    found, expected = again.facts_of(None), frozen.facts_of(None)
    counted = {"users", "judged_users", "requests", "judged_requests", "targets", "cold_item_targets", "train_items"}
    assert {key: found[key] for key in counted} == {key: expected[key] for key in counted}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relevant": [["c"], ["z"]]}, "row 1 wants `z`, which is not among the 4 items"),
        ({"relevant": ["c", "d"]}, "column `relevant` is not of type"),
        ({"relevant": [["c"], [None]]}, "column `relevant` has missing values within"),
        ({"user_id": ["u", None]}, "column `user_id` has missing values"),
        ({"history_times": [[1], [1, 2]]}, "row 1: `history_times` and `history` are of different length"),
        ({"histroy": [["a"], ["a"]]}, "no column `histroy` is known"),
    ],
)
def test_tables_that_cannot_be_judged(change: dict[str, list], message: str) -> None:
    asked = {"user_id": ["u", "v"], "history": [["a"], ["b"]], "relevant": [["c"], ["d"]]}
    with pytest.raises(EvaluationError, match=message):
        given_set(pd.DataFrame(asked | change), ITEMS)


def test_catalogues_that_cannot_be_used() -> None:
    asked = pd.DataFrame({"user_id": ["u"], "relevant": [["c"]]})
    assert given_set(asked, ITEMS).frame()["history"].str.len().tolist() == [0]
    with pytest.raises(EvaluationError, match="an item that stands in two rows"):
        given_set(asked, pd.concat([ITEMS, ITEMS]))
    with pytest.raises(EvaluationError, match="`item_id` and `training_events` are needed"):
        given_set(asked, ITEMS[["item_id"]])
    with pytest.raises(EvaluationError, match="`relevant` and one of"):
        given_set(asked.drop(columns="user_id"), ITEMS)
    with pytest.raises(EvaluationError, match="there is none"):
        given_set(asked.iloc[:0], ITEMS)


def test_a_task_that_is_not_there(log: EventLog) -> None:
    with pytest.raises(EvaluationError, match="no requests of task `search`; it has `None`"):
        EvaluationSet.of(LeaveLastOut()(log)).relevance("search")
