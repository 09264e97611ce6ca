from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.fusion import fuse

N_ITEMS = 12
rows = st.lists(st.integers(0, N_ITEMS), max_size=8)


def brute_force(
    lists: list[list[int]], k: int, weights: list[int], constant: int, tie_seed: int | None
) -> tuple[list[int], list[float]]:
    """One row, a dictionary of exact fractions."""
    scores: dict[int, Fraction] = {}
    for row, weight in zip(lists, weights, strict=True):
        met = set()
        for rank, item in enumerate(row, start=1):
            if item and item not in met:
                met.add(item)
                scores[item] = scores.get(item, Fraction(0)) + Fraction(weight, constant + rank)
    rank_of = list(range(N_ITEMS + 1))
    if tie_seed is not None:
        rank_of = torch.randperm(N_ITEMS + 1, generator=torch.Generator().manual_seed(tie_seed)).tolist()
    best = sorted(scores, key=lambda item: (-scores[item], rank_of[item]))[:k]
    empty = k - len(best)
    return best + [0] * empty, [float(np.float32(float(scores[item]))) for item in best] + [-np.inf] * empty


@given(
    lists=st.lists(rows, min_size=1, max_size=4),
    k=st.integers(1, 15),
    weights=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    constant=st.sampled_from([0, 1, 60]),
    tie_seed=st.sampled_from([None, 0, 7]),
)
def test_fusion_agrees_with_a_dictionary(
    lists: list[list[int]], k: int, weights: list[int], constant: int, tie_seed: int | None
) -> None:
    weights = weights[: len(lists)]
    tensors = [torch.tensor([row], dtype=torch.int64).reshape(1, len(row)) for row in lists]
    top = fuse(tensors, N_ITEMS, k, weights=weights, constant=constant, tie_seed=tie_seed)
    assert top.items.dtype == torch.int64 and top.scores.dtype == torch.float32
    items, scores = brute_force(lists, k, weights, constant, tie_seed)
    assert top.items[0].tolist() == items and top.scores[0].tolist() == scores


def test_rows_do_not_depend_on_each_other() -> None:
    random = torch.Generator().manual_seed(0)
    lists = [torch.randint(0, N_ITEMS + 1, (50, length), generator=random) for length in (4, 9, 1)]
    together = fuse(lists, N_ITEMS, 6, weights=[1.0, 2.5, 0.5])
    for row in range(50):
        alone = fuse([ids[row : row + 1] for ids in lists], N_ITEMS, 6, weights=[1.0, 2.5, 0.5])
        assert torch.equal(alone.items[0], together.items[row]) and torch.equal(alone.scores[0], together.scores[row])


def test_the_order_of_the_lists_does_not_matter() -> None:
    """Sums of the same three numbers in any order tie, so the seed decides and not the last digit."""
    lists = [torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 1]]), torch.tensor([[3, 1, 2]])]
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        top = fuse([lists[place] for place in order], N_ITEMS, 3, tie_seed=None)
        assert top.items.tolist() == [[1, 2, 3]] and len(set(top.scores[0].tolist())) == 1


def test_one_list_keeps_its_order_and_no_row_gives_no_row() -> None:
    ids = torch.tensor([[5, 3, 9, 0], [1, 2, 3, 4]])
    assert torch.equal(fuse([ids], N_ITEMS, 4).items, ids)
    assert fuse([ids[:0]], N_ITEMS, 4).items.shape == (0, 4)


@pytest.mark.parametrize(
    ("lists", "settings", "message"),
    [
        ([], {}, "got none"),
        ([torch.ones(2, 3), torch.ones(1, 3)], {}, r"got \[2, 3\], \[1, 3\]"),
        ([torch.ones(2, 3)], {"weights": [1.0, 2.0]}, "2 weights"),
        ([torch.ones(2, 3)], {"weights": [0.0]}, "weights positive"),
        ([torch.ones(2, 3)], {"constant": -1.0}, "constant not negative"),
        ([torch.ones(2, 3)], {"k": 0}, "k must be at least 1"),
        ([torch.tensor([[13]])], {}, r"must lie in 0\.\.12, found 13\.\.13"),
    ],
)
def test_what_cannot_be_fused_is_refused(lists: list[torch.Tensor], settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fuse([ids.long() for ids in lists], N_ITEMS, **({"k": 3} | settings))  # type: ignore[arg-type]


def test_the_order_of_ties_is_drawn_once_for_a_catalogue_and_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n, **others: drawn.append(n) or real(n, **others))
    lists = [torch.tensor([[1, 2], [3, 4]]), torch.tensor([[2, 1], [4, 3]])]
    for n_items, seed in ((70, 5), (70, 5), (80, 5), (80, 6), (80, 6)):
        fuse(lists, n_items, 2, tie_seed=seed)
    assert drawn == [71, 81, 81]
