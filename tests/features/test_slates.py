"""Slates and their histories against loops over requests and events."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.event_log import EventLog
from recsys.features.list_table import ListDataError
from recsys.features.query_reader import QueryReader
from recsys.features.schema import Schema
from recsys.features.slate_table import SlateTable
from recsys.features.slates import SlateBatch, events_before
from recsys.features.splits import GlobalTime, LeaveLastOut, SplitRule, UserHoldout
from tests.features.slates import ITEMS, shown, tables, toy_log

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out")


def raw(batch: SlateBatch, log, row: int) -> list[tuple[int, int, int]]:
    """Position, raw item and click of a slate."""
    found = zip(batch.item[row].tolist(), batch.click[row].tolist(), strict=True)
    return [(place, int(log.items.decode([i])[0]), int(c)) for place, (i, c) in enumerate(found, 1) if i]


@pytest.mark.parametrize("max_length", [None, 3])
def test_batches_are_what_a_loop_over_requests_finds(max_length: int | None) -> None:
    log, frame = toy_log(), shown()
    events, _ = tables()
    reader = QueryReader.of(log.schema, log.encoders, log.sentence_models)
    assert reader is not None
    slates = SlateTable(frame, query="query", context="device").read(log)
    names = sorted(frame["request_id"].unique())
    rows = np.random.default_rng(0).permutation(len(names))
    batch = slates.batch(rows, max_length)
    known = batch.histories
    assert known.queries is not None and known.request_query is not None and known.query is not None
    kept = log.to_frame()
    for place, row in enumerate(rows):
        own = frame[frame["request_id"] == names[row]].sort_values("position")
        head = own.iloc[0]
        expected = list(zip(own["position"], own["item_id"], own["click"], strict=True))
        assert raw(batch, log, place) == expected
        before = kept[(kept["user_id"] == head["user_id"]) & (kept["timestamp"] < head["timestamp"])]
        before = before if max_length is None else before.tail(max_length)
        span = slice(*known.offsets[place : place + 2].tolist())
        assert log.items.decode(known.item_id[span].numpy()).tolist() == before["item_id"].tolist()
        assert known.timestamp[span].tolist() == before["timestamp"].tolist()
        assert known.request_timestamp is not None and known.request_timestamp[place] == head["timestamp"]
        assert batch.context is not None and batch.context[place] == head["device"]
        asked = [*before["query"], head["query"]]
        found = [*known.query[span].tolist(), int(known.request_query[place])]
        for text, at in zip(asked, found, strict=True):
            if not isinstance(text, str):
                assert at == 0
                continue
            words, ends = known.queries.jagged["asked"]
            alone, _ = reader.read([text])
            assert words[ends[at] : ends[at + 1]].tolist() == alone.jagged["asked"][0].tolist()
    assert len(events) >= len(kept)


def test_what_was_shown_and_not_clicked_is_nowhere_in_histories() -> None:
    """An item that slates alone show is no item of the log."""
    log, frame = toy_log(), shown()
    before = log.item_id.copy()
    frame.loc[frame["click"] == 0, "item_id"] = ITEMS - 1
    slates = SlateTable(frame).read(log)
    histories = slates.batch(np.arange(len(slates))).histories
    events = log.to_frame()
    counts = events["item_id"].value_counts()
    of_last = int((log.items.decode(histories.item_id.numpy()) == ITEMS - 1).sum())
    expected = 0
    for _, head in frame.drop_duplicates("request_id").iterrows():
        mine = events[(events["user_id"] == head["user_id"]) & (events["timestamp"] < head["timestamp"])]
        expected += int((mine["item_id"] == ITEMS - 1).sum())
    assert of_last == expected and counts.sum() == len(before)
    assert np.array_equal(log.item_id, before)


def test_events_of_the_second_of_a_request_are_not_before_it() -> None:
    log = toy_log()
    users = np.repeat(np.arange(log.n_users + 1), 8)
    times = np.tile(np.append(log.timestamp[[0, 5, 30, 60, 90]], [0, 10**9, 1_000_300]), log.n_users + 1)
    found = events_before(log, users, times)
    for user, time, end in zip(users, times, found, strict=True):
        span = range(log.offsets[user], log.offsets[user + 1])
        assert end == log.offsets[user] + sum(int(log.timestamp[event]) < time for event in span)


def test_unknown_items_leave_a_hole_and_unknown_heads_the_slate_out() -> None:
    log, frame = toy_log(), shown(unknown=0.3)
    slates = SlateTable(frame).read(log)
    known = set(log.items.values)
    heads = frame[frame["position"] == 1]
    assert len(slates) == int(heads["item_id"].isin(known).sum()) < len(heads)
    assert slates.facts["first_item_unknown"] == len(heads) - len(slates)
    assert slates.facts["unknown_items"] == int((~frame["item_id"].isin(known)).sum())
    assert bool((slates.click[slates.item == 0] == 0).all()) and (slates.item[:, 0] > 0).all()


RULES = [LeaveLastOut(), GlobalTime(0.2, 0.2), UserHoldout(0.3, 0.3)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_slates_tell_nothing_of_what_is_held_out(rule: SplitRule) -> None:
    log = toy_log()
    split = rule(log)
    slates = SlateTable(shown(200, unknown=0.1), query="query").read(log)
    expected = []
    trained = [u for u in range(1, log.n_users + 1) if split.train_end[u] > split.train_start[u]]
    last = max(int(log.timestamp[split.train_end[u] - 1]) for u in trained)
    for row in range(len(slates)):
        user, time = int(slates.user[row]), int(slates.timestamp[row])
        held = range(int(split.train_end[user]), int(log.offsets[user + 1])) if user else range(0)
        hidden = {int(log.item_id[event]) for event in held}
        clicked = {int(item) for item, click in zip(slates.item[row], slates.click[row], strict=True) if click}
        late = time > last or any(time >= int(log.timestamp[event]) for event in held)
        history = any(int(log.timestamp[e]) < time for e in range(log.offsets[user], log.offsets[user + 1]))
        if not late and not clicked & hidden and (history or slates.query[row] > 0):
            expected.append((user, time, int(slates.item[row, 0])))
    kept = slates.trainable(split)
    found = list(zip(kept.user.tolist(), kept.timestamp.tolist(), kept.item[:, 0].tolist(), strict=True))
    assert found == expected and 0 < len(found) < len(slates)
    left_out = ("late", "click_held_out", "unknown_user")
    assert sum(kept.facts[name] for name in left_out) == len(slates) - len(kept)


def test_slates_without_clicks_can_be_left_out() -> None:
    slates = SlateTable(shown()).read(toy_log())
    kept = slates.clicked()
    assert 0 < len(kept) < len(slates) and kept.click.any(axis=1).all()
    assert kept.facts["without_click"] == len(slates) - len(kept)


def test_files_and_times_are_read_as_the_log_reads_them(tmp_path: Path) -> None:
    log, frame = toy_log(), shown()
    path = tmp_path / "slates.parquet"
    frame.assign(price=1.0).to_parquet(path)
    whole = SlateTable(frame).read(log)
    dates = frame.assign(timestamp=pd.to_datetime(frame["timestamp"], unit="s", utc=True))
    text = frame.assign(timestamp=dates["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    for other in (str(path), dates, text, frame.assign(timestamp=frame["timestamp"] + 0.5)):
        read = SlateTable(other).read(log)
        assert np.array_equal(read.timestamp, whole.timestamp) and np.array_equal(read.item, whole.item)


def test_milliseconds_of_the_schema_are_those_of_the_slates() -> None:
    frame, (events, items) = shown(), tables()
    made = Schema.model_validate({"name": "ms", "events": {"timestamp_unit": "ms"}})
    log = EventLog.from_frame(events.assign(timestamp=events["timestamp"] * 1000), made, items)
    read = SlateTable(frame.assign(timestamp=frame["timestamp"] * 1000 + 999)).read(log)
    assert np.array_equal(read.timestamp, SlateTable(frame).read(toy_log()).timestamp)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="click"), r"no column \['click'\]"),
        (lambda f: f.iloc[:0], "empty"),
        (lambda f: f.assign(user_id=f.index), "named otherwise than in the log"),
        (lambda f: f.assign(user_id=f["user_id"].where(f.index > 0)), "`user_id` is empty in 1 rows"),
        (lambda f: f.assign(timestamp="yesterday"), "`timestamp` holds times; row 0 has yesterday"),
        (lambda f: f.assign(timestamp=f["timestamp"] + f.index), "`timestamp` differs within a list"),
        (lambda f: f.assign(device=f["device"] + f["position"] % 2), "`device` differs within a list"),
        (lambda f: f[f["position"] > 1], "lack position 1"),
    ],
)
def test_faults_of_a_table_are_named(change, message: str) -> None:
    with pytest.raises(ListDataError, match=message):
        SlateTable(change(shown()), context="device").read(toy_log())


def test_queries_need_a_schema_that_reads_them() -> None:
    log = EventLog.from_frame(tables()[0], Schema(name="plain"))
    with pytest.raises(ListDataError, match="`query` holds queries, and the schema"):
        SlateTable(shown(), query="query").read(log)


def test_a_batch_moves_whole() -> None:
    batch = SlateTable(shown(), query="query", context="device").read(toy_log()).batch(np.arange(5)).to("meta")
    assert {part.device.type for part in (batch.item, batch.click, batch.histories.item_id)} == {"meta"}
    assert batch.context is not None and batch.context.device.type == "meta"


def test_lists_are_no_longer_than_the_longest_of_a_batch() -> None:
    slates = SlateTable(shown()).read(toy_log())
    lengths = (slates.item > 0).sum(1)
    order = np.argsort(lengths, kind="stable")
    for first, after in pairwise(range(0, len(order) + 1, 10)):
        batch = slates.batch(order[first:after])
        assert batch.item.shape[1] == lengths[order[after - 1]]
        assert torch.equal((batch.item > 0).sum(1), torch.from_numpy(lengths[order[first:after]]))
