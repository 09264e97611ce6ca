"""Histories of logged rounds: what was known, in a loop, and nothing of what came after."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.simulation.off_policy.known_before import known_before


@pytest.mark.parametrize("max_length", [None, 2])
def test_events_before_the_round_alone(max_length: int | None) -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"user_id": random.integers(0, 9, 120), "item_id": random.integers(0, 20, 120)})
    frame["timestamp"] = random.integers(0, 30, 120)
    events = EventLog.from_frame(frame, Schema(name="shop"))
    users, times = random.integers(0, 12, 80), random.integers(0, 32, 80)
    rounds = random.permutation(80)[:50]
    batch = known_before(events, users, times, max_length)(rounds)
    ends = batch.offsets.tolist()
    ordered = frame.sort_values(["user_id", "timestamp"], kind="stable")
    for row, at in enumerate(rounds):
        known = ordered[(ordered["user_id"] == users[at]) & (ordered["timestamp"] < times[at])]
        wanted = known["item_id"].to_list() if max_length is None else known["item_id"].to_list()[-max_length:]
        items = batch.item_id[ends[row] : ends[row + 1]]
        assert events.items.decode(items.numpy()).tolist() == wanted
    assert batch.request_timestamp is not None and batch.request_timestamp.tolist() == times[rounds].tolist()
