from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split, SplitError
from recsys.models.interactions import interactions, training_events, training_matrix
from recsys.models.popularity import DecayedPopularity, Popularity, RecentPopularity

DAY = 86_400
EVENTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(0, 40)), min_size=12, max_size=50)


def split_of(events: list[tuple[int, int, int]]) -> Split | None:
    """Users, items and days as a log, cut by time; None where the rule finds nothing to test on."""
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).drop_duplicates()
    frame["timestamp"] = frame["timestamp"] * DAY + 1_000_000_000
    try:
        return GlobalTime(test_share=0.2, validation_share=0.1)(EventLog.from_frame(frame, Schema(name="test")))
    except SplitError:
        return None


def training_pairs(split: Split) -> list[tuple[int, int, int]]:
    """The same events by the plainest loop: (user, item, timestamp)."""
    return [
        (user, int(split.log.item_id[event]), int(split.log.timestamp[event]))
        for user in range(1, split.log.n_users + 1)
        for event in range(split.train_start[user], split.train_end[user])
    ]


def batch_of(*histories: list[int]) -> SequenceBatch:
    items = torch.tensor([item for history in histories for item in history], dtype=torch.int64)
    lengths = torch.tensor([len(history) for history in histories])
    return SequenceBatch.build(torch.zeros(len(histories), dtype=torch.int64), lengths, items, torch.zeros_like(items))


@settings(max_examples=25, deadline=None)
@given(EVENTS)
def test_against_a_loop_over_the_training_events(events: list[tuple[int, int, int]]) -> None:
    split = split_of(events)
    assume(split is not None)
    pairs = training_pairs(split)
    assert training_events(split).tolist() == sorted(training_events(split).tolist())
    newest = max(time for _, _, time in pairs)
    weights = {
        Popularity(): lambda age: 1.0,
        RecentPopularity(days=10): lambda age: float(age <= 10),
        DecayedPopularity(half_life_days=5): lambda age: 0.5 ** (age / 5),
    }
    for model, weight in weights.items():
        expected = np.zeros(split.log.n_items + 1)
        for _, item, time in pairs:
            expected[item] += weight((newest - time) / DAY)
        model.fit(split)
        scores = model.scores(batch_of([], [1]))
        assert torch.equal(scores[0], scores[1]) and scores[0, 0] == -torch.inf
        np.testing.assert_allclose(scores[0, 1:].numpy(), expected[1:], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(EVENTS)
def test_the_training_matrix_counts_pairs(events: list[tuple[int, int, int]]) -> None:
    split = split_of(events)
    assume(split is not None)
    counts = Counter((user, item) for user, item, _ in training_pairs(split))
    expected = np.zeros((split.log.n_users, split.log.n_items))
    for (user, item), count in counts.items():
        expected[user - 1, item - 1] = count
    np.testing.assert_array_equal(training_matrix(split, counts=True).toarray(), expected)
    np.testing.assert_array_equal(training_matrix(split).toarray(), expected > 0)


def test_interactions_are_the_distinct_known_items_of_each_row() -> None:
    known = torch.tensor([True, True, True, False, True])
    row, item, count = interactions(batch_of([4, 1, 4, 0, 3], [], [2]), known)
    assert (row.tolist(), item.tolist(), count.tolist()) == ([0, 0, 2], [1, 4, 2], [1, 2, 1])


@pytest.mark.parametrize(
    ("model", "value"), [(RecentPopularity, 0), (DecayedPopularity, -1), (DecayedPopularity, float("nan"))]
)
def test_lengths_of_time_must_be_positive(model: type, value: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        model(value)


def test_an_unfitted_model_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"Popularity\.fit\(split\)"):
        Popularity().scores(batch_of([]))
