"""The shares of ranks: disjoint, complete, equally many steps, whatever does not divide."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.features.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out")


def split_of(lengths: list[int]) -> Split:
    """A log in which an event is known by its time."""
    n = sum(lengths)
    log = EventLog(
        schema=Schema(name="toy"),
        users=Vocabulary.of(range(len(lengths))),
        items=Vocabulary.of(range(9)),
        offsets=np.concatenate([[0, 0], np.cumsum(lengths)]).astype(np.int64),
        columns={"item_id": np.arange(n, dtype=np.int32) % 9 + 1, "timestamp": 1000 + np.arange(n)},
        fingerprint="toy",
    )
    return LeaveLastOut()(log)


def targets_of(batch: SequenceBatch) -> list[int]:
    """The times of the events that carry a loss."""
    assert batch.target is not None and batch.target_timestamp is not None
    return batch.target_timestamp[batch.target > 0].tolist()


LENGTHS = st.lists(st.integers(1, 9), max_size=25).map(lambda lengths: [*lengths, 5])


@settings(deadline=None, max_examples=80)
@given(LENGTHS, st.integers(1, 8), st.integers(1, 5), st.none() | st.integers(1, 3), st.integers(0, 3))
def test_the_shares_of_a_step_are_the_batch_of_one_process(
    lengths: list[int], batch_size: int, ranks: int, stride: int | None, seed: int
) -> None:
    split = split_of(lengths)
    whole = TrainingBatches(split, batch_size, 3, stride, seed)
    shares = [TrainingBatches(split, batch_size, 3, stride, seed, rank, ranks) for rank in range(ranks)]
    for _ in range(2):  # epochs
        expected = list(whole)
        of_ranks = [list(share) for share in shares]
        assert {len(steps) for steps in of_ranks} == {len(expected)} == {len(whole)}
        for batch, *parts in zip(expected, *of_ranks, strict=True):
            assert Counter(time for part in parts for time in targets_of(part)) == Counter(targets_of(batch))
            working = [part for part in parts if targets_of(part)]
            assert sum(map(len, working)) == len(batch)
            assert max(map(len, working)) - min(map(len, working)) <= 1
            assert len(working) == min(ranks, len(batch))
        assert {str(share.state_dict()) for share in shares} == {str(whole.state_dict())}


@settings(deadline=None, max_examples=40)
@given(LENGTHS, st.integers(1, 4), st.integers(2, 5))
def test_an_idle_rank_has_a_window_without_targets(lengths: list[int], batch_size: int, ranks: int) -> None:
    split = split_of(lengths)
    for rank in range(ranks):
        for batch in TrainingBatches(split, batch_size, 3, rank=rank, ranks=ranks):
            assert len(batch) >= 1 and batch.item_id.numel() >= 1 and bool((batch.item_id > 0).all())
            assert batch.target is not None and batch.target.shape == batch.item_id.shape
            idle = not bool(batch.target.any())
            assert idle == (not targets_of(batch))
            assert len(batch) == 1 if idle else bool((batch.target > 0).all())


def test_a_position_is_that_of_any_number_of_ranks() -> None:
    split = split_of([5] * 11)
    saved = TrainingBatches(split, 4, 3, rank=1, ranks=2)
    next(iter(saved))
    alone = TrainingBatches(split, 4, 3, seed=9)
    alone.load_state_dict(saved.state_dict())
    three = [TrainingBatches(split, 4, 3, seed=9, rank=rank, ranks=3) for rank in range(3)]
    for share in three:
        share.load_state_dict(saved.state_dict())
    rest = list(alone)
    assert len(rest) == 2  # of three batches
    for batch, *parts in zip(rest, *map(list, three), strict=True):
        assert sorted(time for part in parts for time in targets_of(part)) == sorted(targets_of(batch))


def test_one_rank_reads_what_it_always_read() -> None:
    split = split_of([4, 6, 5, 3, 8])
    for a, b in zip(TrainingBatches(split, 2, 3), TrainingBatches(split, 2, 3, rank=0, ranks=1), strict=True):
        assert torch.equal(a.user_id, b.user_id) and torch.equal(a.item_id, b.item_id)


@pytest.mark.parametrize(("rank", "ranks"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_is_none_of_them_is_refused(rank: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} is none of {ranks} processes"):
        TrainingBatches(split_of([5, 5]), 2, 3, rank=rank, ranks=ranks)
