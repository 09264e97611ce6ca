"""Slates beside windows: the windows stay what they were, and every slate has its turn."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain, islice, repeat
from typing import Any

import pytest
import torch

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.epochs import ResumeError
from recsys.features.slate_batches import BatchWithSlates, SlateBatches
from recsys.features.slate_table import SlateTable
from recsys.features.slates import Slates
from recsys.features.splits import LeaveLastOut, Split
from tests.features.slates import shown, toy_log

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out")


def parts() -> tuple[Split, Slates]:
    split = LeaveLastOut()(toy_log())
    return split, SlateTable(shown(40), query="query").read(split.log).trainable(split)


def made(per_step: int = 5, seed: int = 0, **ranks: int) -> SlateBatches:
    split, slates = parts()
    return SlateBatches(split, slates, per_step, 4, 50, seed=seed, **ranks)


def steps(batches: TrainingBatches, n: int) -> list[Any]:
    return list(islice(chain.from_iterable(repeat(batches)), n))


def known(batch: BatchWithSlates) -> list[tuple[int, int, int]]:
    """What tells slates apart."""
    assert batch.slates is not None
    histories = batch.slates.histories
    assert histories.request_timestamp is not None
    first = batch.slates.item[:, 0]
    return list(zip(histories.user_id.tolist(), histories.request_timestamp.tolist(), first.tolist(), strict=True))


def same(one: SequenceBatch, other: SequenceBatch) -> bool:
    tensors = (f.name for f in fields(SequenceBatch) if isinstance(getattr(one, f.name), torch.Tensor))
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and torch.equal(
        one.item_id, other.item_id
    )


def test_windows_are_those_of_a_job_without_slates() -> None:
    split, _ = parts()
    plain = steps(TrainingBatches(split, 4, 50), 7)
    assert all(same(one, other) for one, other in zip(plain, steps(made(), 7), strict=True))


def test_every_slate_is_used_once_before_one_is_used_again() -> None:
    _, slates = parts()
    batches = made()
    drawn = list(chain.from_iterable(known(batch) for batch in steps(batches, 2 * len(slates))))
    assert len(slates) % 5  # epochs of slates end within steps
    all_of_them = sorted(zip(slates.user.tolist(), slates.timestamp.tolist(), slates.item[:, 0].tolist(), strict=True))
    turns = [drawn[at : at + len(slates)] for at in range(0, len(drawn), len(slates))]
    assert all(sorted(turn) == all_of_them for turn in turns)
    assert turns[0] != turns[1] and turns[0] == [s for b in steps(made(), len(slates)) for s in known(b)][: len(slates)]
    assert turns[0][:5] != known(steps(made(seed=1), 1)[0])


@pytest.mark.parametrize("after", [1, 2, 3, 4, 8])
def test_a_resumed_job_goes_on_with_the_next_slates(after: int) -> None:
    expected = [known(batch) for batch in steps(made(), after + 4)]
    stopped, resumed = made(), made()
    steps(stopped, after)
    resumed.load_state_dict(stopped.state_dict())
    assert [known(batch) for batch in steps(resumed, 4)] == expected[after:]


def test_other_slates_are_refused_on_resume() -> None:
    with pytest.raises(ResumeError, match=r"saved with \d+ slates, 5 a step, and there are \d+, 6 a step"):
        made(per_step=6).load_state_dict(made().state_dict())


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_the_slates_of_a_step(ranks: int) -> None:
    alone = steps(made(), 5)
    shared = [steps(made(rank=rank, ranks=ranks), 5) for rank in range(ranks)]
    for place, whole in enumerate(alone):
        assert sorted(chain.from_iterable(known(part[place]) for part in shared)) == sorted(known(whole))


def test_a_process_without_slates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 slates in a step of 3 processes: .*; raise the `batch_size`"):
        made(per_step=2, rank=0, ranks=3)


def test_few_slates_are_all_used_at_every_step() -> None:
    _, slates = parts()
    for batch in steps(made(per_step=1000), 3):
        assert len(set(known(batch))) == len(known(batch)) == len(slates)


def test_a_batch_moves_with_its_slates() -> None:
    moved = steps(made(), 1)[0].to("meta")
    assert isinstance(moved, BatchWithSlates) and moved.slates is not None
    assert moved.slates.item.device.type == moved.item_id.device.type == "meta"
