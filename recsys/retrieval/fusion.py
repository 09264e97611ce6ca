"""Several ranked lists made one: reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from recsys.retrieval.topk import TopK


@torch.no_grad()
def fuse(
    lists: Sequence[Tensor],
    n_items: int,
    k: int,
    *,
    weights: Sequence[float] | None = None,
    constant: float = 60.0,
    tie_seed: int | None = 0,
) -> TopK:
    """The k items of the largest `sum_l weight_l / (constant + rank_l)`, where rank_l counts from 1 in list l.

    Only ranks count, so that lists of models whose scores have nothing in common can be fused, such as word matching
    and a model of people. A list adds nothing to an item that it lacks; an item that stands twice in a list counts
    where it stands first.

    Memory: 8 bytes an item of the catalogue, for the order among equal scores; that of the last seed is kept.

    Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning
    Methods", SIGIR 2009, from where the constant is.

    Args:
        lists: `[B, k_l]` int64 item ids each, best first; 0 holds a place and stands for nothing.
        n_items: size of the catalogue.
        k: number of items per row.
        weights: of the lists, positive; None: all 1.
        constant: how little the first ranks are preferred.
        tie_seed: seed of the order among equal scores; None: lower id first.

    Returns:
        Exactly k columns; no item twice in a row; 0 / `-inf` where the lists hold fewer than k items.

    Raises:
        ValueError: there is no list, lists or weights do not fit each other, an id lies outside 0..n_items, or k, a
            weight or the constant is not allowed.

    Example:
        >>> top = fuse([torch.tensor([[7, 8, 9]]), torch.tensor([[9, 5]])], n_items=9, k=3, tie_seed=None)
        >>> top.items.tolist()  # 9 stands in both; 7 is a first, 5 and 8 are seconds, and 5 is the lower id
        [[9, 7, 5]]
    """
    weights = [1.0] * len(lists) if weights is None else weights
    _check(lists, n_items, k, weights, constant)
    items = torch.cat([_without_repeats(ids) for ids in lists], dim=1)
    gains = torch.cat(
        [
            weight / (constant + torch.arange(1, ids.shape[1] + 1, dtype=torch.float64, device=ids.device))
            for weight, ids in zip(weights, lists, strict=True)
        ]
    )
    items, order = items.sort(dim=1)
    group = _opens(items).cumsum(1) - 1
    total = torch.zeros(items.shape, dtype=torch.float64, device=items.device)
    total.scatter_add_(1, group, gains[order])
    distinct = torch.zeros_like(items).scatter_(1, group, items)
    # float64 added up and rounded: equal sums are equal scores, whatever the order of the lists.
    scores = total.float().masked_fill(distinct == 0, -torch.inf)
    if tie_seed is not None:
        rank = _tie_ranks(n_items, tie_seed).to(items.device)
        first = rank[distinct].argsort(dim=1)
        distinct, scores = distinct.gather(1, first), scores.gather(1, first)
    scores, best = scores.sort(dim=1, descending=True, stable=True)
    missing = max(k - scores.shape[1], 0)
    return TopK(
        torch.nn.functional.pad(distinct.gather(1, best)[:, :k], (0, missing)),
        torch.nn.functional.pad(scores[:, :k], (0, missing), value=-torch.inf),
    )


@lru_cache(maxsize=1)
def _tie_ranks(n_items: int, seed: int) -> Tensor:
    """`[n_items + 1]` int64, of each item; drawn once, because it takes longer than fusing some hundred rows."""
    return torch.randperm(n_items + 1, generator=torch.Generator().manual_seed(seed))


def _check(lists: Sequence[Tensor], n_items: int, k: int, weights: Sequence[float], constant: float) -> None:
    if not lists or len(weights) != len(lists) or len({ids.shape[0] for ids in lists}) != 1:
        shapes = ", ".join(str(list(ids.shape)) for ids in lists) or "none"
        raise ValueError(f"lists of the same rows and one weight each are wanted; got {shapes}; {len(weights)} weights")
    if k < 1 or constant < 0 or not all(weight > 0 for weight in weights):
        raise ValueError(
            f"k must be at least 1, the constant not negative and weights positive: {k}, {constant}, {weights}"
        )
    for ids in lists:
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > n_items):
            raise ValueError(f"item ids must lie in 0..{n_items}, found {int(ids.min())}..{int(ids.max())}")


def _without_repeats(ids: Tensor) -> Tensor:
    """`[B, k]` ids with 0 in the place of an id that stands further ahead in its row."""
    ordered, place = ids.sort(dim=1, stable=True)
    return ordered.masked_fill(~_opens(ordered), 0).gather(1, place.argsort(dim=1))


def _opens(ordered: Tensor) -> Tensor:
    """Whether an id differs from the one before it in its row, `[B, k]` bool."""
    return ordered.diff(dim=1, prepend=ordered.new_full((len(ordered), 1), -1)) != 0
