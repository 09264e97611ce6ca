"""What policies do to values: counted against loops over small logs, and against closed forms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.embedding_table import Table
from recsys.features.event_log import EventLog
from recsys.features.partitions import partition_of
from recsys.features.schema import Schema
from recsys.features.table_report import TableReport, expected_collision_rate, table_reports
from recsys.features.table_usage import Lookups, TableUsage
from recsys.features.vocabulary import Encoder, HashBuckets, Vocabulary

TAGS = {"name": "tags", "column": "tags", "type": "categorical_list"}
COUNTRY = {"name": "country", "column": "country", "type": "categorical", "entity": "user"}
DEVICE = {"name": "device", "column": "device", "type": "categorical", "entity": "event"}
WORDS = {"name": "asked", "type": "text", "entity": "query", "table": "tags"}


def toy(**keys: object) -> tuple[EventLog, list[tuple[str, str, str, list[str]]]]:
    """A log in which features of items, users, events and queries feed tables; and per event what it looks up."""
    random = np.random.default_rng(5)
    n = 400
    events = pd.DataFrame({"user_id": random.integers(0, 20, n), "item_id": random.geometric(0.08, n)})
    events["timestamp"] = np.arange(n)
    events["device"] = random.choice(["phone", "desk", "watch", None], n, p=[0.6, 0.3, 0.02, 0.08])
    events["query"] = random.choice(["red hat", "hat", "odd", None], n, p=[0.2, 0.2, 0.01, 0.59])
    items = pd.DataFrame({"item_id": range(100)})
    items["tags"] = [[f"t{tag}" for tag in set(random.geometric(0.2, 3))] + ["hat"] * (i % 9 == 0) for i in range(100)]
    users = pd.DataFrame({"user_id": range(20), "country": [f"c{i % 7}" for i in range(20)]})
    schema = Schema.parse(
        {"name": "toy", "events": {"query": "query"}, "features": [TAGS, COUNTRY, DEVICE, WORDS], "user_table": {}}
        | keys
    )
    return EventLog.from_frame(events, schema, items, users), [
        (
            str(row.item_id),
            str(row.user_id),
            row.device,
            [*items.tags[row.item_id], *(row.query.split() if isinstance(row.query, str) else [])],
        )
        for row in events.itertuples()
    ]


def brute(table: Table, encoder: Encoder, lookups: list[str | int]) -> dict[str, float]:
    """The report of a list of looked up values, one by one."""
    partition = partition_of("t", table, encoder.rows)
    row_of = {value: int(encoder.encode([value])[0]) for value in set(lookups)}
    vector = {value: tuple(p.tolist() for p in partition.places(as_tensor([row]))) for value, row in row_of.items()}
    shared = Counter(map(str, vector.values()))
    own = [v for v, row in row_of.items() if row > 0]
    collides = {value for value in own if shared[str(vector[value])] > 1}
    return {
        "values": len(row_of),
        "collision_rate": len(collides) / len(row_of),
        "dropped": sum(row_of[v] == 0 for v in lookups) / len(lookups),
        "bucketed": sum(row_of[v] >= encoder.first_bucket for v in lookups) / len(lookups),
        "colliding": sum(v in collides for v in lookups) / len(lookups),
    }


def as_tensor(rows: list[int]):
    import torch

    return torch.tensor(rows)


POLICIES = [
    {},
    {"min_count": 4},
    {"min_count": 4, "unknown": "hash", "unknown_buckets": 3},
    {"encoding": "hash", "buckets": 30},
    {"compression": {"method": "double_hash", "rows": 4}},
    {"encoding": "hash", "buckets": 30, "compression": {"method": "quotient_remainder", "rows": 6}},
]


@pytest.mark.parametrize("table", POLICIES, ids=str)
def test_reports_are_what_a_loop_over_the_events_counts(table: dict, tmp_path: Path) -> None:
    small = {k: v for k, v in table.items() if k != "compression"}  # three devices leave nothing to compress
    log, looked_up = toy(item_table=table, user_table=table, tables={"tags": table, "country": small, "device": small})
    log.save(tmp_path / "log")
    values = {
        "item_id": [int(item) for item, _, _, _ in looked_up],
        "user_id": [int(user) for _, user, _, _ in looked_up],
        "device": [device for _, _, device, _ in looked_up if isinstance(device, str)],
        "tags": [tag for _, _, _, tags in looked_up for tag in tags],
        "country": [f"c{int(user) % 7}" for _, user, _, _ in looked_up],
    }
    for opened in (log, EventLog.open(tmp_path / "log")):
        found = {report.table: report for report in table_reports(opened)}
        assert found.keys() == values.keys() == set(log.schema.table_names())
        for name, report in found.items():
            expected = brute(log.schema.table_named(name), opened.encoders[name], values[name])
            assert {key: getattr(report, key) for key in expected} == pytest.approx(expected), name
            parts = partition_of(name, log.schema.table_named(name), log.encoders[name].rows)
            assert report.rows == sum(parts.sizes) and report.bytes(16) == report.rows * 64


@given(st.lists(st.integers(0, 60), min_size=1, max_size=80), st.integers(2, 12), st.booleans())
@settings(deadline=None)
def test_any_values_of_any_traffic(lookups: list[int], buckets: int, hashed: bool) -> None:
    encoder = HashBuckets(buckets) if hashed else Vocabulary.of([v for v in lookups if v % 3], buckets)
    values, events = np.unique(lookups, return_counts=True)
    half = len(values) // 2  # in two parts that overlap
    parts = [
        Lookups(pd.Index(values[: half + 1]), np.append(events[:half], 0)),
        Lookups(pd.Index(values[half:]), events[half:]),
    ]
    table = Table(encoding="hash", buckets=buckets) if hashed else Table(unknown="hash", unknown_buckets=buckets)
    report = TableReport.of("t", table, encoder, TableUsage.of(encoder, parts))
    expected = brute(table, encoder, list(lookups))
    assert {key: getattr(report, key) for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("buckets", [300, 1000, 20_000])
def test_hashing_collides_as_often_as_balls_in_bins(buckets: int) -> None:
    """Disjoint sets of values are independent draws: their mean is within 4 standard errors of the closed form."""
    n, draws = 1000, 60
    rates = [
        TableReport.of(
            "t",
            Table(encoding="hash", buckets=buckets),
            HashBuckets(buckets),
            TableUsage.of(
                HashBuckets(buckets), [Lookups(pd.Index(np.arange(n) + n * draw), np.ones(n, dtype=np.int64))]
            ),
        ).collision_rate
        for draw in range(draws)
    ]
    error = np.std(rates, ddof=1) / draws**0.5
    assert abs(np.mean(rates) - expected_collision_rate(n, buckets)) < 4 * error
    assert error < 0.02


def test_double_hashing_collides_as_often_as_balls_in_a_square_of_bins() -> None:
    rows, buckets = 4001, 200
    usage = TableUsage(np.arange(1, rows), np.ones(rows - 1, dtype=np.int64), np.ones(rows - 1, dtype=np.int64))
    table = Table(compression={"method": "double_hash", "rows": buckets})
    report = TableReport.of("t", table, Vocabulary.of(np.arange(rows - 1)), usage)
    expected = expected_collision_rate(rows - 1, buckets**2)
    # Each colliding row brings a partner, so that the count has about twice the variance of a binomial one.
    assert abs(report.collision_rate - expected) < 4 * (2 * expected * (1 - expected) / (rows - 1)) ** 0.5
    assert report.rows == 2 * (buckets + 1) and report.bytes(8) == 32 * report.rows


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "vocabulary, unknown dropped"),
        (
            {"min_count": 3, "unknown": "hash", "unknown_buckets": 1000},
            "vocabulary of values seen 3 times or more, unknown hashed to 1,000",
        ),
        (
            {"encoding": "hash", "buckets": 5000, "compression": {"method": "double_hash", "rows": 99}},
            "hash of 5,000, as double hash of 99 (sum)",
        ),
    ],
)
def test_a_policy_in_words(table: dict, words: str) -> None:
    encoder = HashBuckets(5000) if "buckets" in table else Vocabulary.of([1])
    usage = TableUsage.of(encoder, [])
    report = TableReport.of("t", Table(**table), encoder, usage)
    assert report.policy == words and report.values == 0 and report.collision_rate == 0
