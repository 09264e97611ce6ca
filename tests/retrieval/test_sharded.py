"""Slices of a catalogue ranked apart and merged, against the whole; ranks that exchange are in tests/distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.retrieval import blocks
from recsys.retrieval.order import ItemOrder, TopK
from recsys.retrieval.sharded import ShardedRanker, is_sharded, merged, slice_of
from recsys.retrieval.topk import Jagged, Ranker, recommend
from tests.retrieval.test_topk import (
    Table,
    Vectors,
    as_argument,
    batch_of,
    brute_force,
    cases,
    jagged,
    per_user,
    positions,
)


def ranked_in_slices(table: Tensor, ranks: int, case: dict[str, Any], vectors: bool) -> TopK:
    """What `ShardedRanker` does, without a process for each rank."""
    users, k = len(table), case["k"]
    lists = {name: as_argument(case[name], users) for name in ("seen", "allow", "deny")}
    shared = {name: ids for name, ids in lists.items() if isinstance(ids, Tensor)}
    order = ItemOrder(table.shape[1] - 1, shared.get("allow"), shared.get("deny"), case["tie_seed"])
    of_rows = {name: order.places(ids, users) for name, ids in lists.items() if isinstance(ids, Jagged)}
    removed = [of_rows[name] for name in ("seen", "deny") if name in of_rows]
    found = []
    for rank in range(ranks):
        own = slice_of(order, rank, ranks)
        items = own.lay_out(torch.device("cpu"))
        if vectors:
            own.vectors = table.T[items]
        source = torch.eye(users) if vectors else table
        found.append(own.best(source, k, removed, of_rows.get("allow"), case["budget"]))
    return order.top(merged(torch.stack(found), k))


@pytest.mark.parametrize("vectors", [True, False])
@given(case=cases(), ranks=st.integers(1, 9))
@settings(max_examples=120, deadline=None)
def test_the_best_of_all_slices_are_the_best_of_the_whole(case: dict[str, Any], ranks: int, vectors: bool) -> None:
    table = case["table"]
    users, n_items = len(table), table.shape[1] - 1
    allowed = per_user(case["allow"], users) or [set(range(1, n_items + 1))] * users
    seen, denied = (per_user(case[name], users) or [set()] * users for name in ("seen", "deny"))
    allowed = [a - s - d - {0} for a, s, d in zip(allowed, seen, denied, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", case["item_block"])
        found = ranked_in_slices(torch.from_numpy(table), ranks, case, vectors)
    expected = brute_force(table, case["k"], allowed, positions(n_items, case["tie_seed"]))
    assert found.items.tolist() == expected
    scores = [[row[item] if item else -np.inf for item in best] for row, best in zip(table, expected, strict=True)]
    np.testing.assert_array_equal(found.scores.numpy(), np.array(scores, dtype=np.float32))


@given(n=st.integers(1, 200), ranks=st.integers(1, 12))
def test_slices_are_disjoint_complete_and_laid_out_alike(n: int, ranks: int) -> None:
    order = ItemOrder(n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", 16)
        slices = [slice_of(order, rank, ranks) for rank in range(ranks)]
    assert [place for own in slices for place in own._places] == list(range(n))
    assert len({own.lay_out(torch.device("cpu")).shape for own in slices}) == 1
    room = slices[0].lay_out(torch.device("cpu")).numel()
    assert room < n / ranks + 8 * (n / ranks / 16 + 2), "a slice is no more than rounded up"


def test_everything_seen_and_lists_longer_than_a_slice() -> None:
    table = torch.rand(2, 12)
    case = {"k": 9, "allow": None, "deny": None, "tie_seed": 0, "budget": 64}
    nothing = ranked_in_slices(table, 4, case | {"seen": [list(range(1, 12))] * 2}, vectors=True)
    assert nothing.items.tolist() == [[0] * 9] * 2 and (nothing.scores == -torch.inf).all()
    some = ranked_in_slices(table, 4, case | {"seen": [[3], []]}, vectors=True)
    assert torch.equal(some.items, recommend(Vectors(table), batch_of(2), 9, seen=jagged([[3], []])).items)


@pytest.mark.usefixtures("one_rank")
def test_one_rank_is_a_ranker() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Vectors(torch.randint(0, 9, (6, 41), generator=generator).float())
    lists = {name: jagged([[user, 2 * user + 1] for user in range(6)]) for name in ("seen", "deny")}
    settings = {"deny": torch.tensor([7]), "tie_seed": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", 16)
        expected = Ranker(model, **settings)(batch_of(6), 30, **lists)
        ranker = ShardedRanker(model, **settings)
        for _ in range(2):
            found = ranker(batch_of(6), 30, **lists)
            assert torch.equal(found.items, expected.items) and torch.equal(found.scores, expected.scores)
        assert ranker(batch_of(0), 30, seen=jagged([])).items.shape == (0, 30)
    nobody = ShardedRanker(model, allow=torch.tensor([], dtype=torch.int64))(batch_of(2), 3)
    assert nobody.items.tolist() == [[0, 0, 0]] * 2


@pytest.mark.usefixtures("one_rank")
def test_items_are_looked_up_block_by_block_and_once() -> None:
    calls: list[int] = []

    class Counted(Vectors):
        def item_vectors(self, ids: Tensor | None = None) -> Tensor:
            assert ids is not None
            calls.append(len(ids))
            return super().item_vectors(ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", 16)
        ranker = ShardedRanker(Counted(torch.rand(3, 46)))
    ranker.prepare(torch.device("cpu"))
    ranker(batch_of(3), 4)
    assert calls == [16, 16, 16]


@pytest.mark.usefixtures("one_rank")
def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="Table has sharded tables and no item vectors"):
        ShardedRanker(Table(torch.rand(2, 6)))
    ranker = ShardedRanker(Vectors(torch.rand(2, 6)))
    with pytest.raises(ValueError, match="k must be at least 1"):
        ranker(batch_of(2), 0)
    with pytest.raises(ValueError, match="1 rows of ids for 2 users"):
        ranker(batch_of(2), 1, seen=jagged([[2]]))


def test_a_model_without_sharded_tables_is_not_sharded() -> None:
    assert not is_sharded(Vectors(torch.rand(2, 6)))


@pytest.mark.usefixtures("one_rank")
def test_a_process_group_alone_shards_nothing() -> None:
    assert not is_sharded(Vectors(torch.rand(2, 6)))
