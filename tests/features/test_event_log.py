from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.event_log import EventLog
from recsys.features.event_stream import merge_duplicates
from recsys.features.log_files import MANIFEST, EventLogError
from recsys.features.schema import Schema

ROWS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(1, 4), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=40
)


def frame_of(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "rank"])


def brute_force(rows: list[tuple], use_rank: bool) -> list[tuple]:
    """(user, item, time) in log order, the first of equal events kept."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i][0], rows[i][2], rows[i][3] if use_rank else 0, i))
    log: list[tuple] = []
    for i in order:
        if rows[i][:3] not in log:
            log.append(rows[i][:3])
    return log


@settings(max_examples=25, deadline=None)
@given(ROWS, st.booleans())
def test_equals_a_loop_over_the_rows(rows: list[tuple], use_rank: bool) -> None:
    schema = Schema.parse({"name": "toy", "events": {"order": "rank" if use_rank else None}})
    log = EventLog.from_frame(frame_of(rows), schema)
    expected = brute_force(rows, use_rank)
    assert list(log.to_frame().itertuples(index=False, name=None)) == expected
    assert log.facts["events_merged"] == len(rows) - len(expected)
    assert log.n_events == log.facts["events_kept"] == len(expected)
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    assert log.offsets[0] == log.offsets[1] == 0 and log.offsets[-1] == len(expected)
    for user, (start, end) in enumerate(pairwise(log.offsets[1:].tolist())):
        mine = [(items.index(item) + 1, time) for name, item, time in expected if name == users[user]]
        assert list(zip(log.item_id[start:end], log.timestamp[start:end], strict=True)) == mine
    assert log.user_ids().tolist() == [users.index(row[0]) + 1 for row in expected]


def test_the_order_of_rows_decides_nothing_but_ties() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": rng.integers(0, 20, 300), "item_id": rng.integers(0, 9, 300)})
    frame["timestamp"] = rng.permutation(300)
    one = EventLog.from_frame(frame, Schema(name="toy"))
    two = EventLog.from_frame(frame.sample(frac=1, random_state=1), Schema(name="toy"))
    assert np.array_equal(one.item_id, two.item_id) and np.array_equal(one.offsets, two.offsets)
    assert one.users.values.equals(two.users.values)
    assert one.fingerprint != two.fingerprint


@settings(deadline=None)
@given(ROWS, st.lists(st.integers(1, 39), max_size=5))
def test_merging_does_not_depend_on_where_chunks_are_cut(rows: list[tuple], cuts: list[int]) -> None:
    ordered = sorted((ord(user), time, rank, item) for user, item, time, rank in rows)
    user, time, rank, item = np.array(ordered, dtype=np.int64).T
    whole = {"user_id": user, "item_id": item, "timestamp": time, "weight": rank}
    at = [0, *sorted({cut for cut in cuts if cut < len(rows)}), len(rows)]
    chunks = [{name: values[start:end] for name, values in whole.items()} for start, end in pairwise(at)]
    merged = list(merge_duplicates(chunks, Schema(name="toy")))
    found = [tuple(int(v) for v in row) for c in merged for row in zip(*(c[name] for name in whole), strict=True)]
    expected: dict[tuple, tuple] = {}
    for u, t, r, i in ordered:
        expected.setdefault((u, i, t), (u, i, t, r))
    assert found == list(expected.values())


def test_events_that_differ_in_action_or_query_are_not_duplicates() -> None:
    frame = pd.DataFrame(
        {"user_id": 1, "item_id": 1, "timestamp": 9, "action": ["view", "buy", "view"], "query": ["q", "q", None]}
    )
    plain, acted = {"action": "action"}, {"action": "action", "query": "query"}
    assert EventLog.from_frame(frame, Schema(name="toy")).n_events == 1
    assert EventLog.from_frame(frame, Schema.parse({"name": "toy", "events": plain})).n_events == 2
    assert EventLog.from_frame(frame, Schema.parse({"name": "toy", "events": acted})).n_events == 3
    assert EventLog.from_frame(frame, Schema(name="toy", duplicates="keep")).n_events == 3


FULL = Schema.parse(
    {
        "name": "full",
        "events": {
            "user_id": "who",
            "item_id": "what",
            "timestamp": "when",
            "action": "act",
            "query": "words",
            "session_id": "visit",
            "weight": "stars",
            "propensity": "chance",
            "position": "place",
        },
        "features": [
            {"name": "device", "column": "device", "type": "categorical", "entity": "event"},
            {"name": "dwell time", "column": "seconds", "type": "numeric", "entity": "event"},
        ],
    }
)


def full_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "who": [2, 1, 1],
            "what": ["x", "y", "x"],
            "when": [5, 6, 7],
            "act": pd.Categorical(["buy", "view", "buy"]),
            "words": ["red shoe", None, "hat"],
            "visit": [70, 71, 71],
            "stars": [1.5, 2, 3],
            "chance": [0.5, 1.0, 0.25],
            "place": [0, 3, 1],
            "device": ["phone", None, "desk"],
            "seconds": [1.0, 2.0, 6.0],
        }
    )


def check_full(log: EventLog) -> None:
    """User 1 has y then x, user 2 has x."""
    assert log.item_id.tolist() == [2, 1, 1] and log.item_id.dtype == np.int32
    assert log.columns["action"].tolist() == [2, 1, 1]
    assert log.columns["query"].tolist() == [0, 1, 2]
    assert log.columns["session_id"].tolist() == [2, 2, 1]
    assert log.columns["weight"].tolist() == [2, 3, 1.5] and log.columns["weight"].dtype == np.float32
    assert log.columns["propensity"].tolist() == [1, 0.25, 0.5]
    assert log.columns["position"].tolist() == [3, 1, 0] and log.columns["position"].dtype == np.int32
    assert log.columns["device"].tolist() == [0, 1, 2]
    assert np.allclose(log.columns["dwell time"], (np.array([2, 6, 1]) - 3) / np.sqrt(14 / 3))
    assert log.table_rows == {"item_id": 3, "device": 3}
    assert log.vocabularies["query"].decode([1, 2]).tolist() == ["hat", "red shoe"]
    back = log.to_frame()
    assert back["action"].tolist() == ["view", "buy", "buy"]
    assert back["query"].isna().tolist() == [True, False, False] and back["query"][1] == "hat"


def test_every_column_of_the_schema_arrives(tmp_path: Path) -> None:
    log = EventLog.from_frame(full_frame(), FULL)
    check_full(log)
    log.save(tmp_path / "log")
    opened = EventLog.open(tmp_path / "log")
    check_full(opened)
    assert opened.schema == FULL and opened.facts == log.facts and opened.fingerprint == log.fingerprint
    assert opened.scaling == log.scaling
    assert isinstance(opened.item_id, np.memmap)


def test_a_folder_that_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EventLogError, match="recsys prepare"):
        EventLog.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(EventLogError, match="damaged"):
        EventLog.open(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": 0}')
    with pytest.raises(EventLogError, match="format 0"):
        EventLog.open(tmp_path)
