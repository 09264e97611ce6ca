from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import serving_latency
from serving_latency import Latency, compare, measure, requests_of, timed

from recsys.models.popularity import Popularity
from tests.tracking.served import fitted, raw, served


@pytest.mark.filterwarnings("ignore")
def test_every_way_answers_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_latency, "BATCHES", (1, 3))
    made = served(fitted(Popularity()), queries=False)
    found = measure(made.bundle, made.split, tmp_path, argparse.Namespace(k=5, warm_up=1, calls=3, threads=1))
    assert list(found) == [(way, batch) for way in ("direct", "process", "http") for batch in (1, 3)]
    assert all(0 < latency.p50_ms <= latency.p99_ms and latency.requests_per_s > 0 for latency in found.values())


def test_requests_are_the_histories_of_test_users() -> None:
    made = served(fitted(Popularity()), queries=False)
    requests = requests_of(made.split, made.bundle, len(made.split.test) + 2)
    whole = [slice(*made.log.offsets[user : user + 2]) for user in (1, 2)]
    for row, own in zip((0, len(made.split.test) + 1), whole, strict=True):
        assert requests["history"][row] == raw(made, made.log.item_id[own][:-1])
        assert requests["history_times"][row] == made.log.timestamp[own][:-1].tolist()


def test_calls_are_timed_one_by_one() -> None:
    requests, asked = pd.DataFrame({"row": np.arange(7)}), []
    latency = timed(lambda frame: asked.append(frame["row"].tolist()), requests, 3, 1, 2)
    assert asked == [[4, 5, 6], [0, 1, 2], [3, 4, 5]]
    assert latency.p50_ms <= latency.p99_ms


def test_ratios_are_over_the_way_before_and_over_single_requests() -> None:
    found = {
        ("direct", 1): Latency(1.0, 2.0, 100.0),
        ("direct", 32): Latency(2.0, 2.0, 900.0),
        ("process", 1): Latency(3.0, 4.0, 50.0),
        ("http", 1): Latency(12.0, 14.0, 20.0),
    }
    assert {name: entry["value"] for name, entry in compare("net", found).items()} == {
        "net/direct/batch_32/throughput": 9.0,
        "net/process/batch_1/p50": 3.0,
        "net/http/batch_1/p50": 4.0,
    }
