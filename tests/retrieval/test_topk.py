from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval import blocks
from recsys.retrieval.topk import Jagged, Ranker, recommend


class Table(Recommender):
    """Scores read from a table, one row per user id."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.n_items = table, table.shape[1] - 1

    def scores(self, batch: SequenceBatch) -> Tensor:
        scores = self.table[batch.user_id].clone()
        scores[:, 0] = -torch.inf
        return scores

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"table": self.table}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Table:
        return cls(state["table"])


class Vectors(Table, VectorRecommender):
    """The same table as inner products: item vectors are its columns, user vectors are unit vectors."""

    scores = VectorRecommender.scores

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        return torch.eye(len(self.table))[batch.user_id]

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return self.table.T if ids is None else self.table.T[ids]


def batch_of(users: int) -> SequenceBatch:
    one = torch.ones(users, dtype=torch.int64)
    return SequenceBatch.build(torch.arange(users), one, one, one)


def jagged(rows: list[list[int]]) -> Jagged:
    values = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return Jagged(values, torch.tensor([0, *np.cumsum([len(row) for row in rows])], dtype=torch.int64))


def positions(n_items: int, tie_seed: int | None) -> list[int]:
    """Place of each id in the order that decides among equals, found by ranking a model of equal scores."""
    items = recommend(Table(torch.zeros(1, n_items + 1)), batch_of(1), n_items, tie_seed=tie_seed).items[0].tolist()
    assert sorted(items) == list(range(1, n_items + 1))
    return [-1, *np.argsort(items).tolist()]


def brute_force(table: np.ndarray, k: int, allowed: list[set[int]], place: list[int]) -> list[list[int]]:
    rows = []
    for scores, ids in zip(table, allowed, strict=True):
        best = sorted(ids, key=lambda item: (-scores[item], place[item]))[:k]
        rows.append(best + [0] * (k - len(best)))
    return rows


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    n_items, users = draw(st.integers(1, 90)), draw(st.integers(1, 7))
    seed = draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    levels = draw(st.sampled_from([1, 2, 5, 10_000]))  # few levels: almost everything is tied
    table = random.integers(-levels, levels, (users, n_items + 1)).astype(np.float32) / 4
    ids = st.lists(st.integers(0, n_items), max_size=12)
    rows = st.lists(ids, min_size=users, max_size=users)
    return {
        "table": table,
        "k": draw(st.integers(1, n_items + 5)),
        "seen": draw(st.none() | rows),
        "allow": draw(st.none() | ids | rows),
        "deny": draw(st.none() | ids | rows),
        "tie_seed": draw(st.none() | st.integers(0, 3)),
        "budget": draw(st.sampled_from([4, 300, 2**20])),
        "item_block": draw(st.sampled_from([8, 24, 4096])),
    }


def per_user(lists: list[Any] | None, users: int) -> list[set[int]] | None:
    if lists is None:
        return None
    nested = len(lists) == users and all(isinstance(row, list) for row in lists)
    return [set(row) for row in lists] if nested else [set(lists)] * users


def as_argument(lists: list[Any] | None, users: int) -> Tensor | Jagged | None:
    if lists is None:
        return None
    if len(lists) == users and all(isinstance(row, list) for row in lists):
        return jagged(lists)
    return torch.tensor(lists, dtype=torch.int64)


@pytest.mark.parametrize("model", [Table, Vectors])
@given(case=cases())
@settings(max_examples=120, deadline=None)
def test_equals_brute_force(model: type[Table], case: dict[str, Any]) -> None:
    table, k = case["table"], case["k"]
    users, n_items = len(table), table.shape[1] - 1
    allowed = per_user(case["allow"], users) or [set(range(1, n_items + 1))] * users
    seen = per_user(case["seen"], users) or [set()] * users
    denied = per_user(case["deny"], users) or [set()] * users
    allowed = [a - s - d - {0} for a, s, d in zip(allowed, seen, denied, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", case["item_block"])
        found = recommend(
            model(torch.from_numpy(table)),
            batch_of(users),
            k,
            seen=as_argument(case["seen"], users),
            allow=as_argument(case["allow"], users),
            deny=as_argument(case["deny"], users),
            tie_seed=case["tie_seed"],
            budget=case["budget"],
        )
    expected = brute_force(table, k, allowed, positions(n_items, case["tie_seed"]))
    assert found.items.tolist() == expected
    scores = [[row[item] if item else -np.inf for item in best] for row, best in zip(table, expected, strict=True)]
    np.testing.assert_array_equal(found.scores.numpy(), np.array(scores, dtype=np.float32))


def test_many_items_and_ties_across_several_blocks() -> None:
    random = np.random.default_rng(0)
    table = random.integers(0, 40, (9, 40_001)).astype(np.float32)
    seen = [random.integers(0, 40_001, 500).tolist() for _ in range(9)]
    found = recommend(Vectors(torch.from_numpy(table)), batch_of(9), 100, seen=jagged(seen), tie_seed=5)
    allowed = [set(range(1, 40_001)) - set(row) for row in seen]
    assert found.items.tolist() == brute_force(table, 100, allowed, positions(40_000, 5))


def test_ties_are_fair_over_seeds_and_fixed_within_one() -> None:
    model = Table(torch.tensor([[0.0, 1, 1, 1, 1, 2]]))
    first = [recommend(model, batch_of(1), 2, tie_seed=seed).items[0].tolist() for seed in range(2000)]
    assert all(row[0] == 5 for row in first)
    wins = np.bincount([row[1] for row in first], minlength=5)[1:]
    assert np.abs(wins - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)
    assert recommend(model, batch_of(1), 2, tie_seed=7).items[0].tolist() == first[7]


def test_zeros_of_both_signs_tie() -> None:
    model = Table(torch.tensor([[0.0, -0.0, 0.0, -0.0]]))
    assert recommend(model, batch_of(1), 3, tie_seed=None).items.tolist() == [[1, 2, 3]]


def test_an_allow_list_does_not_change_who_wins_a_tie() -> None:
    model = Table(torch.zeros(1, 51))
    everything = recommend(model, batch_of(1), 50).items[0].tolist()
    allowed = torch.arange(1, 51, 3)
    some = recommend(model, batch_of(1), 50, allow=allowed).items[0].tolist()
    assert [item for item in some if item] == [item for item in everything if item in set(allowed.tolist())]


def test_nothing_allowed_gives_padding() -> None:
    model = Vectors(torch.rand(2, 6))
    for nothing in (
        recommend(model, batch_of(2), 3, seen=jagged([[1, 2, 3, 4, 5]] * 2)),
        recommend(model, batch_of(2), 3, allow=torch.tensor([], dtype=torch.int64)),
        recommend(model, batch_of(2), 3, allow=jagged([[], []])),
    ):
        assert nothing.items.tolist() == [[0, 0, 0]] * 2
        assert (nothing.scores == -torch.inf).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_users_and_are_given_back(threads: int) -> None:
    table = torch.stack([torch.randperm(500, generator=torch.Generator().manual_seed(u)) for u in range(1100)]).float()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = recommend(Vectors(table), batch_of(1100), 5)
        after: list[int] = [torch.get_num_threads()]
        thread = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    table[:, 0] = -torch.inf
    assert torch.equal(found.items, table.topk(5, 1).indices)
    assert after == [threads, threads]


def test_no_users() -> None:
    found = recommend(Vectors(torch.rand(2, 6)), batch_of(0), 3, seen=jagged([]))
    assert found.items.shape == found.scores.shape == (0, 3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("model", [Table, Vectors])
def test_scores_that_are_not_finite_are_refused(model: type[Table], bad: float) -> None:
    table = torch.rand(3, 20)
    table[1, 7] = bad
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        recommend(model(table), batch_of(3), 2, seen=jagged([[], [7], []]))


def test_wrong_arguments_are_refused() -> None:
    model = Table(torch.rand(2, 6))
    with pytest.raises(ValueError, match="k must be at least 1"):
        recommend(model, batch_of(2), 0)
    with pytest.raises(ValueError, match=r"ids must lie in 0\.\.5, found 2\.\.6"):
        recommend(model, batch_of(2), 1, seen=jagged([[2], [6]]))
    with pytest.raises(ValueError, match=r"ids must lie in 0\.\.5, found -1\.\.3"):
        recommend(model, batch_of(2), 1, deny=torch.tensor([3, -1]))
    with pytest.raises(ValueError, match="1 rows of ids for 2 users"):
        recommend(model, batch_of(2), 1, seen=jagged([[2]]))


def test_a_ranker_answers_batch_after_batch_and_lays_items_out_once() -> None:
    calls = []

    class Counted(Vectors):
        def item_vectors(self, ids: Tensor | None = None) -> Tensor:
            calls.append(ids)
            return super().item_vectors(ids)

    model = Counted(torch.rand(5, 30))
    ranker = Ranker(model, deny=torch.tensor([3]))
    whole = ranker(batch_of(5), 4)
    for user in range(5):
        one = torch.ones(1, dtype=torch.int64)
        alone = ranker(SequenceBatch.build(torch.tensor([user]), one, one, one), 4)
        assert alone.items.tolist() == whole.items[user : user + 1].tolist()
    assert len(calls) == 1


def test_ranking_matches_torch_where_no_scores_are_equal() -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.stack([torch.randperm(3001, generator=generator) for _ in range(50)]).float()
    found = recommend(Vectors(table), batch_of(50), 100)
    table[:, 0] = -torch.inf
    expected = table.topk(100, 1)
    assert torch.equal(found.items, expected.indices)
    torch.testing.assert_close(found.scores, expected.values)
