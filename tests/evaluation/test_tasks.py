from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.evaluation.tasks import requests, tasks_of
from recsys.features.event_log import EventLog
from recsys.features.schema import EventColumns, Schema
from recsys.features.splits import GlobalTime, Split


@pytest.fixture(scope="module")
def split() -> Split:
    """Two users with three events each to train on, and then searches of `a` and `b` among other events."""
    rows = [(user, item, time, None) for user in "uv" for item, time in ((1, 1), (2, 2), (3, 3))]
    rows += [("u", 4, 10, "a"), ("u", 5, 11, None), ("u", 6, 12, "b"), ("u", 7, 13, "a"), ("v", 8, 14, "b")]
    rows += [("u", 4, 15, "a"), ("v", 9, 16, None), ("v", 9, 17, None)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "query"])
    log = EventLog.from_frame(frame, Schema(name="searches", events=EventColumns(query="query")))
    return GlobalTime(8 / 14, 0.0)(log)


def as_told(split: Split, rows: np.ndarray) -> list[int]:
    return split.log.timestamp[rows].tolist()


def test_a_search_is_a_target_event_and_wants_what_its_user_took_for_the_query(split: Split) -> None:
    asked = requests(split, "test", "search")
    query = split.log.vocabularies["query"].decode(asked.query).tolist()
    told = [
        (split.log.users.decode([user])[0], text, as_told(split, asked.targets.row(row)))
        for row, (user, text) in enumerate(zip(asked.users, query, strict=True))
    ]
    assert told == [
        ("u", "a", [10, 13, 15]),  # its own event first: that is the time of the request
        ("u", "a", [13, 15, 10]),
        ("u", "a", [15, 10, 13]),
        ("u", "b", [12]),
        ("v", "b", [14]),
    ]
    assert asked.other_task == 3
    assert (asked.history_length == 3).all(), "the history ends at the cut, also for the later searches"


def test_a_recommendation_wants_what_its_user_took_without_a_query(split: Split) -> None:
    asked = requests(split, "test", "recommendation")
    assert asked.query is None and asked.other_task == 5
    assert split.log.users.decode(asked.users).tolist() == ["u", "v"]
    assert [as_told(split, asked.targets.row(row)) for row in range(2)] == [[11], [16, 17]]


def test_without_a_task_a_user_wants_everything(split: Split) -> None:
    asked = requests(split, "test")
    assert asked.query is None and asked.other_task == 0
    assert [as_told(split, asked.targets.row(row)) for row in range(2)] == [[10, 11, 12, 13, 15], [14, 16, 17]]


def test_batches_carry_history_time_and_query_of_their_rows(search_log: EventLog) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    asked = requests(split, "test", "search")
    log, met, longest = search_log, [], 0
    cpu = torch.device("cpu")
    for rows in asked.blocks(7):
        batch = asked.batch(log, rows, 4, cpu)
        assert batch.request_timestamp is not None and batch.request_query is not None and batch.queries is not None
        assert len(rows) <= 7 and asked.history_length[rows].min() >= longest
        longest = asked.history_length[rows].max()
        values, offsets = batch.queries.jagged["words"]
        for place, row in enumerate(rows.tolist()):
            own = batch.item_id[batch.offsets[place] : batch.offsets[place + 1]].tolist()
            end = int(asked.history_end[row])
            assert own == log.item_id[max(int(asked.history_start[row]), end - 4) : end].tolist()
            event = int(asked.targets.row(row)[0])
            assert int(batch.request_timestamp[place]) == int(log.timestamp[event])
            assert int(batch.user_id[place]) == asked.users[row]
            words, _ = log.queries(log.columns["query"][event : event + 1])[0].jagged["words"]
            at = int(batch.request_query[place])
            assert values[offsets[at] : offsets[at + 1]].tolist() == words.tolist()
        met += rows.tolist()
    assert sorted(met) == list(range(len(asked)))
    bare = requests(split, "test", "recommendation").batch(log, np.arange(2), 4, cpu)
    assert bare.request_query is None


def test_the_tasks_of_a_part_are_those_it_has_requests_for(split: Split, search_log: EventLog) -> None:
    searched = GlobalTime(0.4, 0.2)(search_log)
    assert tasks_of(searched) == ("search", "recommendation")
    assert tasks_of(split) == (None,), "no feature reads the queries"
    columns = search_log.columns
    silent = replace(searched, log=replace(search_log, columns=columns | {"query": 0 * columns["query"]}))
    assert tasks_of(silent) == ("recommendation",)
    talking = replace(searched, log=replace(search_log, columns=columns | {"query": 0 * columns["query"] + 1}))
    assert tasks_of(talking) == ("search",)


def test_items_are_those_of_the_rows(search_log: EventLog) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    asked = requests(split, "test", "search")
    rows = np.array([5, 0, 5, len(asked) - 1])
    known, wanted = asked.history_items(search_log, rows), asked.target_items(search_log, rows)
    for place, row in enumerate(rows):
        history = search_log.item_id[asked.history_start[row] : asked.history_end[row]]
        assert known.row(place).tolist() == history.tolist()
        assert wanted.row(place).tolist() == search_log.item_id[asked.targets.row(row)].tolist()
