"""Ids that keep coming: against a simulation in plain Python, on planted streams, and through a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec.modules.mc_modules import DistanceLFU_EvictionPolicy, LFU_EvictionPolicy, LRU_EvictionPolicy

from recsys.features.catalogue import Catalogue
from recsys.features.schema import Schema
from recsys.models.dynamic_ids import DynamicIds, start_anew
from recsys.models.embeddings import ItemEncoder
from recsys.training.sparse_adam import SparseAdam

POLICIES = [LFU_EvictionPolicy, LRU_EvictionPolicy, DistanceLFU_EvictionPolicy]
SCORES: dict[type, Callable[[int, int], float]] = {  # of the count and the age of an id, in revisions
    LFU_EvictionPolicy: lambda count, age: count,
    LRU_EvictionPolicy: lambda count, age: -age,
    DistanceLFU_EvictionPolicy: lambda count, age: float(np.float32(count) / np.float32(age + 1)),
}

batches = st.lists(st.lists(st.integers(-3, 12), min_size=1, max_size=12), min_size=1, max_size=12)


def simulated(stream: list[list[int]], places: int, score: Callable[[int, int], float]) -> set[int]:
    """The ids that have a row in the end: those that have one go first where scores are equal, by their value, and then
    new ones, the more frequent in the batch and then the smaller first."""
    count: dict[int, int] = {}
    last: dict[int, int] = {}
    for now, batch in enumerate(stream):
        seen = Counter(batch)
        for known in count.keys() & seen.keys():
            count[known] += seen[known]
            last[known] = now
        new = sorted((i for i in seen if i not in count), key=lambda i: (-seen[i], i))
        order = [*sorted(count), *new]
        total = {i: count.get(i, seen[i]) for i in order}
        kept = sorted(order, key=lambda i: -score(total[i], now - last.get(i, now)))[:places]
        count = {i: total[i] for i in kept}
        last = {i: last.get(i, now) for i in kept}
    return set(count)


def owners(ids: DynamicIds, probe: list[int]) -> dict[int, int]:
    """Id -> row, of those that have one of their own."""
    ids.eval()
    rows = ids(torch.tensor(probe)).tolist()
    ids.train()
    return {i: row for i, row in zip(probe, rows, strict=True) if row < ids.rows - 1}


@pytest.mark.parametrize("policy", POLICIES)
@given(stream=batches, rows=st.integers(3, 9), interval=st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_ids_with_a_row_are_those_of_a_simulation(
    policy: type, stream: list[list[int]], rows: int, interval: int
) -> None:
    ids = DynamicIds(rows, policy(), interval)
    shared = lookups = 0
    for batch in stream:
        answer = ids(torch.tensor(batch)).tolist()
        lookups, shared = lookups + len(batch), shared + answer.count(rows - 1)
        assert all(1 <= row < rows for row in answer)
    starts = range(0, len(stream) - len(stream) % interval, interval)
    revised = [[i for batch in stream[at : at + interval] for i in batch] for at in starts]
    found = owners(ids, list(range(-3, 13)))
    assert found.keys() == simulated(revised, rows - 2, SCORES[policy])
    assert len(set(found.values())) == len(found)
    report = ids.report()
    assert (report.lookups, report.shared, report.rows) == (lookups, shared / lookups, rows)
    assert report.free == rows - 2 - len(found)


def copied(ids: DynamicIds) -> dict[str, Tensor]:
    """The state as it is now; TorchRec changes its tensors in place."""
    return {name: tensor.clone() for name, tensor in ids.state_dict().items()}


def stream_of(first: int, batches: int, seed: int) -> list[Tensor]:
    """Twenty frequent ids from `first` on, and one lookup in four of an id that comes once."""
    random = np.random.default_rng(seed)
    out = []
    for batch in range(batches):
        frequent = first + random.integers(0, 20, 60)
        once = 10**9 * (1 + seed) + 20 * batch + np.arange(20)
        out.append(torch.tensor(random.permutation(np.append(frequent, once))))
    return out


def test_frequent_ids_keep_their_rows_and_new_ones_get_rows() -> None:
    """30 rows for 20 frequent ids and 800 that come once; then another 20 become frequent."""
    ids = DynamicIds(32, LFU_EvictionPolicy(), interval=2)
    first, second = list(range(5000, 5020)), list(range(2**62, 2**62 + 20))
    for batch in stream_of(5000, 4, seed=0):
        ids(batch)
    settled = owners(ids, first)
    assert len(settled) == 20
    for batch in stream_of(5000, 36, seed=1):
        ids(batch)
    assert owners(ids, first) == settled
    for batch in stream_of(2**62, 100, seed=2):
        ids(batch)
    assert len(owners(ids, second)) == 10  # what the rows of the first left free: they were the more frequent for long
    recent = DynamicIds(32, LRU_EvictionPolicy(), interval=2)
    for batch in stream_of(5000, 20, seed=0) + stream_of(2**62, 20, seed=2):
        recent(batch)
    assert not owners(recent, first) and len(owners(recent, second)) >= 10


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("before", [1, 4, 5])
def test_a_stream_that_is_resumed_has_the_rows_of_one_that_never_stopped(policy: type, before: int) -> None:
    """Also in the middle of an interval, and where a run that had gone on takes an older state."""
    stream = [batch[: 10 + 9 * at] for at, batch in enumerate(stream_of(100, 9, seed=3))]  # batches of all sizes
    straight = DynamicIds(16, policy(), interval=3)
    for batch in stream[:before]:
        straight(batch)
    middle = copied(straight)
    expected = [straight(batch) for batch in stream[before:]]
    report, end = straight.report(), copied(straight)
    for other in (DynamicIds(16, policy(), interval=3), straight):
        other.load_state_dict(middle)
        assert all(torch.equal(other(batch), rows) for batch, rows in zip(stream[before:], expected, strict=True))
        assert other.report() == report
        resumed = copied(other)
        assert resumed.keys() == end.keys() and all(torch.equal(resumed[name], end[name]) for name in end)


def test_a_large_batch_after_a_small_one_is_counted_whole() -> None:
    """TorchRec alone sizes a buffer by the first batch and forgets what does not fit."""
    ids = DynamicIds(102)
    ids(torch.tensor([1, 2]))
    assert ids(torch.arange(3, 103)).max() == 101 and len(owners(ids, list(range(1, 103)))) == 100


def test_nothing_changes_in_evaluation() -> None:
    ids = DynamicIds(5)
    ids(torch.tensor([1, 1, 2]))
    before = ids.report()
    ids.eval()
    state = copied(ids)
    assert ids(torch.tensor([9, 9, 9, 9, 1])).tolist()[:4] == [4, 4, 4, 4]
    assert all(torch.equal(tensor, state[name]) for name, tensor in ids.state_dict().items())
    assert ids.report() == before and ids(torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_rows_that_change_hands_are_named_once() -> None:
    ids = DynamicIds(4)
    first = ids(torch.tensor([1, 1, 2])).tolist()
    assert ids.reassigned().tolist() == sorted({first[0], first[2]}) and ids.report().evicted == 0
    assert ids.reassigned().tolist() == []
    second = ids(torch.tensor([7, 7, 7, 1])).tolist()
    assert ids.reassigned().tolist() == [first[2]] == [second[0]] and ids.report().evicted == 1
    assert second[3] == first[0] and ids.report().free == 0


def test_a_new_id_starts_anew_in_front_of_the_item_encoder() -> None:
    """Fresh vectors and no moments for the rows that changed hands; all others keep both."""
    ids = DynamicIds(6, LRU_EvictionPolicy())
    catalogue = Catalogue(Schema(name="stream"), ids.rows - 1, 0, {"item_id": ids.rows}, torch.zeros(ids.rows))
    torch.manual_seed(0)
    items = ItemEncoder(catalogue, 8)
    table = items.ids.embeddings["item_id"].weight
    held = table.detach()
    optimizer = SparseAdam([table], lr=0.1)

    def step(raw: list[int]) -> Tensor:
        rows = ids(torch.tensor(raw))
        start_anew(ids.reassigned(), table, optimizer)
        optimizer.zero_grad()
        items(rows.unique()).sum().backward()
        optimizer.step()
        return rows

    for _ in range(20):
        step([10, 20, 30, 40])
    assert float(held[1:5].mean()) < -1
    (old,) = (row for i, row in owners(ids, [10, 20, 30, 40]).items() if i == 10)
    step([20, 30, 40, 50])
    assert ids(torch.tensor([50])).tolist() == [old]
    assert float(held[old].mean()) > -0.3, "one step from zero, not twenty"
    others = [row for row in range(1, 5) if row != old]
    assert float(held[others].mean()) < -1 and (optimizer.state[table]["first"][others].abs() > 0.5).all()
    start_anew(torch.tensor([old]), table, optimizer)
    assert not optimizer.state[table]["first"][old].any() and not optimizer.state[table]["second"][old].any()
    assert (optimizer.state[table]["second"][others] > 0).all()


def test_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="run on cpu and cuda, not on mps; hash the ids instead"):
        DynamicIds(8, device="mps")
    with pytest.raises(ValueError, match="rows must be at least 3 and interval at least 1, not 2 and 1"):
        DynamicIds(2)
    ids = DynamicIds(8)
    with pytest.raises(ValueError, match=r"below 2\^63 - 1, not torch\.int64 up to 9223372036854775807"):
        ids(torch.tensor([5, 2**63 - 1]))
    with pytest.raises(ValueError, match=r"must be int64 .* not torch\.int32"):
        ids(torch.tensor([5], dtype=torch.int32))
    with pytest.raises(RuntimeError, match="made on cpu and cannot be moved to meta"):
        ids.to("meta")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="live in one process"):
        DynamicIds(8)(torch.tensor([5]))
