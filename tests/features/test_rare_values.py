"""Values below a frequency threshold, and hashed ids: which rows they have, in memory and in files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.features.build import fingerprint
from recsys.features.event_log import EventLog
from recsys.features.log_files import MANIFEST
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.vocabulary import HashBuckets

EVENTS = pd.DataFrame(
    {
        "user_id": ["u", "u", "u", "v", "v", "w", "w"],
        "item_id": [10, 10, 30, 30, 20, 30, 40],
        "timestamp": [1, 1, 2, 3, 4, 5, 6],  # the first two are equal and become one
        "device": ["phone", "phone", "desk", "phone", None, "watch", "desk"],
        "asked": ["red hat", "red hat", "hat", None, "odd hat", None, None],
    }
)
ITEMS = pd.DataFrame({"item_id": [10, 20, 30, 40], "brand": ["a", "a", "b", "c"], "with": [[20], [10, 30], [40], []]})
BRAND = {"name": "brand", "column": "brand", "type": "categorical"}
WITH = {"name": "with", "column": "with", "type": "categorical_list", "table": "item_id"}
DEVICE = {"name": "device", "column": "device", "type": "categorical", "entity": "event"}
ASKED = {"name": "words", "type": "text", "entity": "query"}


def schema(*features: dict, **keys: object) -> Schema:
    return Schema.parse({"name": "toy", "events": {"query": "asked"}, "features": features} | keys)


def log_of(*features: dict, **keys: object) -> EventLog:
    return EventLog.from_frame(EVENTS, schema(*features, **keys), ITEMS)


def test_rare_items_stay_items_and_lose_their_row() -> None:
    """Items 10 (two events before merging) and 30 have a row; the events hold the ids of all."""
    log = log_of(WITH, item_table={"min_count": 2})
    assert log.items.values.tolist() == [10, 20, 30, 40] and log.n_items == 4
    assert log.to_frame()["item_id"].tolist() == [10, 30, 30, 20, 30, 40]
    assert log.item_rows().tolist() == [0, 1, 0, 2, 0] and log.table_rows["item_id"] == 3
    column = log.item_features["with"]
    assert [column.row(item).tolist() for item in range(1, 5)] == [[], [1, 2], [], []]
    assert log.facts["with_values_dropped"] == 2


def test_rare_items_share_rows() -> None:
    log = log_of(item_table={"min_count": 3, "unknown": "hash", "unknown_buckets": 2})
    rows = log.item_rows()
    assert rows[3] == 1 and set(rows[[1, 2, 4]]) <= {2, 3} and log.table_rows["item_id"] == 4
    assert rows[[1, 2, 4]].tolist() == log.encoders["item_id"].encode([10, 20, 40]).tolist()


def test_hashed_items() -> None:
    log = log_of(WITH, item_table={"encoding": "hash", "buckets": 100})
    assert log.item_rows().tolist() == [0, *HashBuckets(100).encode([10, 20, 30, 40])]
    assert log.item_features["with"].row(2).tolist() == HashBuckets(100).encode([10, 30]).tolist()
    assert log.table_rows == {"item_id": 101} and log.items.values.tolist() == [10, 20, 30, 40]


def test_hashed_and_rare_users() -> None:
    hashed = log_of(user_table={"encoding": "hash", "buckets": 50})
    assert hashed.table_rows["user_id"] == 51 and hashed.encoders["user_id"] == HashBuckets(50)
    rare = log_of(user_table={"min_count": 3})
    assert rare.encoders["user_id"].values.tolist() == ["u"] and rare.users.values.tolist() == ["u", "v", "w"]
    assert rare.to_frame()["user_id"].tolist() == ["u", "u", "v", "v", "w", "w"]


@pytest.mark.parametrize("table", [{}, {"unknown": "hash", "unknown_buckets": 3}, {"compression": None}])
def test_items_with_a_row_each_have_their_own_ids_as_rows(table: dict) -> None:
    log = log_of(item_table=table)
    assert log.item_rows() is None
    assert log.encoders["item_id"].encode(log.items.values).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("min_count", [1, 2, 3])
def test_thresholds_count_items_and_events(min_count: int) -> None:
    tables = {name: {"min_count": min_count} for name in ("brand", "device", "words")}
    log = log_of(BRAND, DEVICE, ASKED, tables=tables)
    words = Counter(word for text in EVENTS["asked"].dropna() for word in set(text.split()))
    for name, counts in {
        "brand": Counter(ITEMS["brand"]),
        "device": Counter(EVENTS["device"].dropna()),
        "words": words,
    }.items():
        expected = sorted(value for value, n in counts.items() if n >= min_count)
        assert log.vocabularies[name].values.tolist() == expected, name


def test_features_of_one_table_are_counted_together() -> None:
    """An item that names a value twice counts once; each event feature counts by its events."""
    rival = BRAND | {"name": "rival", "column": "rival", "table": "brand"}
    origin = {"name": "origin", "column": "origin", "type": "categorical", "entity": "event", "table": "brand"}
    items = ITEMS.assign(brand=["x", "y", "z", "x"], rival=["y", "z", "z", "w"])
    target = origin | {"name": "target", "column": "target"}
    events = EVENTS.assign(origin=["z", "z", "w", "w", "w", None, "y"], target=["y", "v", None, None, None, None, "v"])
    counts = {"x": 2, "y": 2 + 1 + 1, "z": 2 + 2, "w": 1 + 3, "v": 2}
    for threshold in (1, 2, 3, 4):
        toy = schema(BRAND, rival, origin, target, tables={"brand": {"min_count": threshold}})
        log = EventLog.from_frame(events, toy, items)
        assert log.vocabularies["brand"].values.tolist() == sorted(v for v, n in counts.items() if n >= threshold)


def test_rare_values_of_events_share_rows_and_missing_ones_have_none() -> None:
    log = log_of(DEVICE, tables={"device": {"min_count": 3, "unknown": "hash", "unknown_buckets": 5}})
    codes = log.columns["device"]
    expected = log.encoders["device"].encode(["phone", "desk", "phone", "watch", "desk"])
    assert codes[[0, 1, 2, 4, 5]].tolist() == expected.tolist() and expected[0] == 1 and min(expected[1:2]) > 1
    assert codes[3] == 0
    assert log.to_frame()["device"].fillna("").tolist() == ["phone", "", "phone", "", "", ""]
    dropped = log_of(DEVICE, tables={"device": {"min_count": 3}})
    assert dropped.columns["device"].tolist() == [1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"unknown": "hash", "unknown_buckets": 2},
        {"min_count": 2},
        {"min_count": 3, "unknown": "hash"},
        {"encoding": "hash", "buckets": 7},
    ],
    ids=str,
)
def test_a_saved_log_has_the_same_rows(table: dict, tmp_path: Path) -> None:
    log = log_of(WITH, item_table=table, user_table=table)
    log.save(tmp_path / "log")
    opened = EventLog.open(tmp_path / "log")
    for ids, name in ((opened.items, "item_id"), (opened.users, "user_id")):
        before = {"item_id": log.items, "user_id": log.users}[name]
        assert ids.values.equals(before.values) and ids.unknown_buckets == 0
        probe = [10, 20, 30, 40, 50] if name == "item_id" else ["u", "v", "w", "x"]
        assert opened.encoders[name].encode(probe).tolist() == log.encoders[name].encode(probe).tolist()
        assert opened.encoders[name].rows == log.encoders[name].rows
        assert type(opened.encoders[name]) is type(log.encoders[name])
    rows, opened_rows = log.item_rows(), opened.item_rows()
    assert (rows is None and opened_rows is None) or np.array_equal(rows, opened_rows)


def test_logs_of_older_versions_are_read(tmp_path: Path) -> None:
    """They say nothing of tables of their own and of usage, and one file holds ids and shared rows."""
    log_of(item_table={"unknown": "hash", "unknown_buckets": 2}).save(tmp_path / "log")
    manifest = json.loads((tmp_path / "log" / MANIFEST).read_text())
    for key in ("id_tables", "usage"):
        del manifest[key]
    (tmp_path / "log" / MANIFEST).write_text(json.dumps(manifest))
    opened = EventLog.open(tmp_path / "log")
    assert opened.usage == {} and opened.table_rows == {"item_id": 7}
    assert opened.items.values.tolist() == [10, 20, 30, 40] and opened.items.unknown_buckets == 0


def test_a_log_is_prepared_once_for_all_compressions(tmp_path: Path) -> None:
    """Models that hold their tables differently are judged on one split; each log still says what was asked of it."""
    events = pd.DataFrame({"user_id": 1, "item_id": range(50), "timestamp": 0})
    tables = [{"compression": {"method": method, "rows": 8}} for method in ("double_hash", "quotient_remainder")]
    schemas = [Schema.parse({"name": "toy", "item_table": table}) for table in ({}, *tables)]
    logs = [prepare(schema, events, cache_dir=tmp_path) for schema in schemas]
    assert len({log.fingerprint for log in logs}) == 1 and [log.schema for log in logs] == schemas
    other = Schema.parse({"name": "toy", "item_table": {"min_count": 2}})
    assert prepare(other, events, cache_dir=tmp_path).fingerprint != logs[0].fingerprint


def test_the_fingerprint_of_a_schema_without_later_options_is_what_it_was() -> None:
    """The hashes of splits, and with them published results, depend on it."""
    tables = {"tables": {"brand": {"dim": 8}}, "user_table": {"unknown": "hash"}}
    assert fingerprint(schema(BRAND, **tables, events={}), {}, {}) == "191f96408397bfa4ad34d9f728282494"
