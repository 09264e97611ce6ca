"""Windows, batches and histories against loops over users."""

from __future__ import annotations

import os
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches, histories, padded_share
from recsys.features.datasets import load_dataset
from recsys.features.event_log import EventLog
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split, UserHoldout
from recsys.features.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out")

Pair = tuple[int, int, int, int, int]
"""User, item and time of an input event, item and time of its target."""


def log_of(lengths: list[int], seed: int) -> EventLog:
    """Random events; every timestamp is another, so that an event is known by it."""
    random = np.random.default_rng(seed)
    n = sum(lengths)
    return EventLog(
        schema=Schema(name="toy"),
        users=Vocabulary.of(range(len(lengths))),
        items=Vocabulary.of(range(9)),
        offsets=np.concatenate([[0, 0], np.cumsum(lengths)]).astype(np.int64),
        columns={"item_id": random.integers(1, 10, n).astype(np.int32), "timestamp": 1000 + np.arange(n)},
        fingerprint="toy",
    )


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """Logs split with and without users that have no training event."""
    lengths = [*draw(st.lists(st.integers(1, 12), min_size=4, max_size=12)), 12]
    rule = draw(st.sampled_from([LeaveLastOut(), LeaveLastOut(refit=True), UserHoldout(0.2, 0.2)]))
    return rule(log_of(lengths, draw(st.integers(0, 99))))


WINDOWS = st.integers(1, 8).flatmap(lambda longest: st.tuples(st.just(longest), st.integers(1, longest)))
"""Longest window and stride."""


def training_events(split: Split, user: int) -> list[int]:
    return list(range(split.train_start[user], split.train_end[user]))


def pairs_of(batch: SequenceBatch) -> list[Pair]:
    """Every (input, target) of a batch."""
    assert batch.target is not None and batch.target_timestamp is not None
    user = torch.repeat_interleave(batch.user_id, batch.lengths)
    columns = (user, batch.item_id, batch.timestamp, batch.target, batch.target_timestamp)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def windows_of(batch: SequenceBatch) -> list[tuple[int, ...]]:
    """The times of each row."""
    return [tuple(batch.timestamp[a:b].tolist()) for a, b in pairwise(batch.offsets.tolist())]


def pair(log: EventLog, user: int, event: int) -> Pair:
    at = log.item_id, log.timestamp
    return (user, *(int(column[event]) for column in at), *(int(column[event + 1]) for column in at))


def trains(split: Split) -> bool:
    return bool((split.train_end - split.train_start > 1).any())


@settings(deadline=None, max_examples=60)
@given(splits(), st.integers(1, 13), st.integers(1, 6))
def test_the_newest_pairs_of_each_user_come_once_an_epoch(split: Split, max_length: int, batch_size: int) -> None:
    if not trains(split):
        return
    batches = TrainingBatches(split, batch_size, max_length)
    expected = [
        pair(split.log, user, event)
        for user in range(1, split.log.n_users + 1)
        for event in training_events(split, user)[:-1][-max_length:]
    ]
    for _ in range(2):  # epochs
        assert Counter(p for batch in batches for p in pairs_of(batch)) == Counter(expected)


@settings(deadline=None, max_examples=60)
@given(splits(), WINDOWS, st.integers(1, 6))
def test_strided_windows(split: Split, window: tuple[int, int], batch_size: int) -> None:
    if not trains(split):
        return
    max_length, stride = window
    expected = []
    for user in range(1, split.log.n_users + 1):
        inputs = training_events(split, user)[:-1]
        end = len(inputs)
        while inputs:
            expected.append(tuple(int(split.log.timestamp[event]) for event in inputs[max(end - max_length, 0) : end]))
            if end <= max_length:
                break
            end -= stride
    batches = TrainingBatches(split, batch_size, max_length, stride)
    found = [times for batch in batches for times in windows_of(batch)]
    assert Counter(found) == Counter(expected)
    every = {
        int(split.log.timestamp[event])
        for user in range(1, split.log.n_users + 1)
        for event in training_events(split, user)[:-1]
    }
    assert {time for times in found for time in times} == every  # nothing is skipped


@settings(deadline=None, max_examples=30)
@given(splits(), WINDOWS | st.tuples(st.integers(1, 8), st.none()), st.integers(1, 6))
def test_targets_are_the_next_events(split: Split, window: tuple[int, int | None], batch_size: int) -> None:
    if not trains(split):
        return
    log, (max_length, stride) = split.log, window
    for batch in TrainingBatches(split, batch_size, max_length, stride):
        assert 1 <= len(batch) <= batch_size
        assert int(batch.lengths.min()) >= 1 and int(batch.lengths.max()) <= max_length
        for row in pairs_of(batch):
            event = int(np.flatnonzero(log.timestamp == row[2])[0])
            assert row == pair(log, row[0], event)
            assert event + 1 < split.train_end[row[0]]  # a target is a training event


def test_positions_of_targets_are_those_of_the_next_events() -> None:
    """Where the log has them."""
    log = log_of([5, 4], seed=0)
    assert TrainingBatches(LeaveLastOut(refit=True)(log), 4, 10).batch(np.arange(2)).target_position is None
    log.columns["position"] = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5], dtype=np.int32)
    batch = TrainingBatches(LeaveLastOut(refit=True)(log), 4, 10).batch(np.arange(2))
    assert batch.target_position is not None and batch.target_position.tolist() == [1, 4, 1, 2, 6]
    assert batch.target_position.dtype == torch.int64


def test_an_epoch_is_a_permutation_and_each_one_another() -> None:
    split = LeaveLastOut()(log_of([9] * 40, seed=0))
    batches = TrainingBatches(split, 8, 50)
    assert len(batches) == 5 and batches.n_windows == 40
    first, second = ([batch.user_id.tolist() for batch in batches] for _ in range(2))
    for epoch in (first, second):
        assert [len(users) for users in epoch] == [8] * 5
        assert sorted(user for users in epoch for user in users) == list(range(1, 41))
    assert first != second
    assert {frozenset(users) for users in first} != {frozenset(users) for users in second}  # others stand together
    again = TrainingBatches(split, 8, 50)
    assert [batch.user_id.tolist() for batch in again] == first
    other = TrainingBatches(split, 8, 50, seed=1)
    assert [batch.user_id.tolist() for batch in other] != first


@settings(deadline=None, max_examples=40)
@given(splits(), st.integers(1, 4), st.none() | st.integers(1, 3), st.data())
def test_a_restored_position_continues_exactly(
    split: Split, batch_size: int, stride: int | None, data: st.DataObject
) -> None:
    if not trains(split):
        return
    epochs = 3
    whole = TrainingBatches(split, batch_size, 4, stride, seed=3)
    expected = [pairs_of(batch) for _ in range(epochs) for batch in whole]
    stop = data.draw(st.integers(0, len(expected) - 1))
    before = TrainingBatches(split, batch_size, 4, stride, seed=3)
    seen, iterator = 0, iter(before)
    while seen < stop:
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(before)
            continue
        assert pairs_of(batch) == expected[seen]
        seen += 1
    after = TrainingBatches(split, batch_size, 4, stride, seed=99)  # the seed is restored too
    after.load_state_dict(before.state_dict())
    rest: list[list[Pair]] = []
    while len(rest) < len(expected) - stop:
        rest += [pairs_of(batch) for batch in after]
    assert rest == expected[stop:]


def test_batches_group_equal_lengths() -> None:
    random = np.random.default_rng(0)
    split = LeaveLastOut()(log_of(random.integers(4, 60, 500).tolist(), seed=0))
    batches = TrainingBatches(split, 16, 50)
    lengths = [batch.lengths for batch in batches]
    empty = sum(padded_share(one) * one.numel() * int(one.max()) for one in lengths)
    slots = sum(one.numel() * int(one.max()) for one in lengths)
    assert batches.padding() == pytest.approx(empty / slots)
    assert batches.padding() < 0.05


def test_padded_share() -> None:
    assert padded_share(torch.tensor([2, 4])) == 0.25
    assert padded_share(torch.tensor([3, 3])) == 0
    assert padded_share(torch.tensor([0, 0])) == 1
    assert padded_share(torch.tensor([], dtype=torch.int64)) == 0


@pytest.mark.skipif(not os.environ.get("RECSYS_DATA"), reason="RECSYS_DATA names no folder of data sets")
def test_little_of_amazon_beauty_is_padding(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = load_dataset("amazon_beauty")
    log = prepare(source.schema, source.events, source.items, cache_dir=tmp_path_factory.mktemp("cache"))
    assert TrainingBatches(LeaveLastOut()(log), batch_size=128, max_length=50).padding() < 0.10


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.none() | st.integers(1, 9))
def test_histories_keep_the_newest_events(lengths: list[int], max_length: int | None) -> None:
    log = log_of([7] * len(lengths), seed=1)
    users = np.arange(1, len(lengths) + 1)[::-1].copy()  # in any order
    start = log.offsets[users]
    batch = histories(log, users, start, start + np.array(lengths), max_length)
    rows = [list(range(first, first + n)) for first, n in zip(start.tolist(), lengths, strict=True)]
    kept = [row if max_length is None else row[-max_length:] for row in rows]
    events = np.array([event for row in kept for event in row], dtype=np.int64)
    assert batch.user_id.tolist() == users.tolist()
    assert batch.lengths.tolist() == [len(row) for row in kept]
    assert batch.item_id.tolist() == log.item_id[events].tolist()
    assert batch.timestamp.tolist() == log.timestamp[events].tolist()
    assert batch.item_id.dtype == batch.timestamp.dtype == torch.int64
    assert batch.target is None


def test_histories_of_nobody() -> None:
    log = log_of([3], seed=0)
    nothing = np.empty(0, dtype=np.int64)
    batch = histories(log, nothing, nothing, nothing, 5)
    assert len(batch) == 0 and batch.item_id.numel() == 0 and batch.offsets.tolist() == [0]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"max_length": 0}, {"stride": 0}, {"stride": -1}])
def test_sizes_must_be_positive(wrong: dict[str, int]) -> None:
    split = LeaveLastOut()(log_of([5, 5], seed=0))
    with pytest.raises(ValueError, match="must be positive"):
        TrainingBatches(split, **({"batch_size": 4, "max_length": 5} | wrong))


def test_a_stride_that_skips_events_is_refused() -> None:
    split = LeaveLastOut()(log_of([9, 9], seed=0))
    with pytest.raises(ValueError, match="stride 5 exceeds max_length 4"):
        TrainingBatches(split, 4, max_length=4, stride=5)


def test_a_split_without_pairs_is_refused() -> None:
    split = LeaveLastOut()(log_of([2, 2, 3], seed=0))  # one training event each
    with pytest.raises(ValueError, match="nothing to learn from"):
        TrainingBatches(split, 4, 5)
