"""Ranking metrics per user, from ranked ids and the relevant ids of each user.

With `r` the ranks (from 1) at which the user's relevant items stand, and `R` the number of distinct relevant items:

    HR@k     = 1 when any r <= k
    Recall@k = #{r <= k} / R
    NDCG@k   = sum_{r <= k} 1 / log2(r + 1)  /  sum_{j <= min(k, R)} 1 / log2(j + 1)
    MRR@k    = 1 / min r when min r <= k, else 0
    MAP@k    = sum_{r <= k} (#{r' <= r} / r)  /  min(k, R)

A user without relevant items has no value (NaN). Relevance is 0 or 1. With inverse-propensity weights `w` of the items
(see `debiased_metrics`) the same sums are taken over weighted items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.retrieval.topk import Jagged

_CHUNK = 16_384


class Targets(NamedTuple):
    """Where the relevant items stand: one entry per distinct (user, relevant item), ordered by user, then item.

    Attributes:
        row: `[P]` int64, row of the user in the ranked lists.
        item: `[P]` int64.
        rank: `[P]` int64, from 1; 0 when the list does not name the item.
        users: number of ranked lists.
    """

    row: Tensor
    item: Tensor
    rank: Tensor
    users: int


def find_targets(ranked: Tensor, relevant: Jagged | tuple[Tensor, Tensor]) -> Targets:
    """Looks each relevant item up in its user's list; work memory is 16,384 x K x 17 bytes.

    Args:
        ranked: `[U, K]` int64 item ids, best first, 0 where the list is shorter. Of an item named twice the better
            rank counts.
        relevant: jagged ids of the U users; an id named twice counts once, 0 counts for nothing.

    Raises:
        ValueError: the numbers of users differ.
    """
    values, offsets = (part.to(ranked.device).long() for part in relevant)
    users, length = ranked.shape
    if len(offsets) != users + 1:
        raise ValueError(f"{len(offsets) - 1} rows of relevant items for {users} ranked lists")
    stride = int(values.max()) + 1 if len(values) else 1
    pairs = torch.unique(torch.repeat_interleave(offsets.diff()) * stride + values)
    row, item = pairs // stride, pairs % stride
    row, item = row[item != 0], item[item != 0]
    position = torch.arange(1, length + 1, device=ranked.device)
    ranks = [
        torch.where(ranked[rows] == items[:, None], position, length + 1).amin(1)
        for rows, items in zip(row.split(_CHUNK), item.split(_CHUNK), strict=True)
    ]
    rank = torch.cat(ranks) % (length + 1)
    return Targets(row, item, rank, users)


def ranking_metrics(
    ranked: Tensor, relevant: Jagged | tuple[Tensor, Tensor], ks: Sequence[int] = (10, 50)
) -> dict[str, Tensor]:
    """HR, Recall, NDCG, MRR and MAP at each k, per user.

    Args:
        ranked: `[U, K]` item ids, best first, 0 where the list is shorter; K >= max(ks).
        relevant: jagged relevant ids of each user.
        ks: cut-offs.

    Returns:
        `{"NDCG@10": [U] float32, ...}`; NaN for users without relevant items.

    Raises:
        ValueError: a cut-off is not in 1..K, or the numbers of users differ.

    Example:
        >>> ranked = torch.tensor([[3, 1, 2]])
        >>> relevant = (torch.tensor([1]), torch.tensor([0, 1]))
        >>> round(float(ranking_metrics(ranked, relevant, ks=[3])["NDCG@3"]), 4)
        0.6309
    """
    check_cut_offs(ks, ranked.shape[1])
    return target_metrics(find_targets(ranked, relevant), ks)


def check_cut_offs(ks: Sequence[int], length: int) -> None:
    """Refuses cut-offs that lists of this length cannot answer.

    Raises:
        ValueError: a cut-off is not in 1..length.
    """
    for k in ks:
        if not 1 <= k <= length:
            raise ValueError(f"cut-off {k} does not fit ranked lists of length {length}")


def target_metrics(targets: Targets, ks: Sequence[int]) -> dict[str, Tensor]:
    """`ranking_metrics` of targets already looked up (every k at most the length of the lists)."""
    row, _, rank, users = targets
    relevant = torch.bincount(row, minlength=users)
    undefined = torch.where(relevant == 0, torch.nan, 0.0).double()
    ideal = _discount(torch.arange(1, max(ks) + 1, device=row.device)).cumsum(0)
    order = torch.argsort(row * (int(rank.max()) + 1 if len(rank) else 1) + rank)
    row, rank = row[order], rank[order]
    row, rank = row[rank > 0], rank[rank > 0]
    # Hits are ordered by user and rank: the place of a hit among its user's hits is the numerator of the precision.
    hits = torch.bincount(row, minlength=users)
    place = torch.arange(1, len(row) + 1, device=row.device) - (hits.cumsum(0) - hits)[row]
    metrics: dict[str, Tensor] = {}
    for k in ks:
        inside = rank <= k
        near, at, nth = row[inside], rank[inside].double(), place[inside].double()
        found = torch.bincount(near, minlength=users)
        reachable = relevant.clamp(1, k)
        metrics[f"HR@{k}"] = (found > 0) + undefined
        metrics[f"Recall@{k}"] = found / relevant.clamp(min=1) + undefined
        metrics[f"NDCG@{k}"] = _sum(near, _discount(at), users) / ideal[reachable - 1] + undefined
        metrics[f"MRR@{k}"] = _sum(near, (nth == 1) / at, users) + undefined
        metrics[f"MAP@{k}"] = _sum(near, nth / at, users) / reachable + undefined
    return {name: value.float() for name, value in metrics.items()}


def propensities(counts: Tensor, beta: float = 0.5) -> Tensor:
    """Chance that an item is observed, up to a factor: `(max(n_i, 1) / max_j n_j)^beta`.

    Source: Yang et al., "Unbiased Offline Recommender Evaluation for Missing-Not-At-Random Implicit Feedback",
    RecSys 2018 (a power law of the observed popularity).

    Args:
        counts: `[n_items + 1]` training events of each item.
        beta: 0 gives the plain metric; 1 makes every item count the same in all.

    Returns:
        `[n_items + 1]` float64 in (0, 1].
    """
    observed = counts.double().clamp(min=1)
    return (observed / observed.max()) ** beta


def debiased_metrics(targets: Targets, counts: Tensor, ks: Sequence[int], beta: float = 0.5) -> dict[str, Tensor]:
    """Recall and NDCG weighted by inverse propensity `w_i = 1 / p_i`, self-normalised over users.

        Debiased Recall@k = sum_u sum_{i: r <= k} w_i               /  sum_u sum_i w_i
        Debiased NDCG@k   = sum_u sum_{i: r <= k} w_i / log2(r + 1)  /  sum_u (the best such sum of u)

    Each user's value is its numerator over the mean denominator, so that the mean over users is the ratio. (Weights
    normalised within a user would change nothing where each user has one target.)

    Args:
        targets: the relevant items looked up.
        counts: `[n_items + 1]` training events of each item.
        ks: cut-offs.
        beta: exponent of the propensity.

    Returns:
        `{"Debiased NDCG@10": [U] float32, ...}`; NaN for users without relevant items. A value may exceed 1.
    """
    row, item, rank, users = targets
    weight = 1 / propensities(counts.to(row.device), beta)[item]
    relevant = torch.bincount(row, minlength=users)
    undefined = torch.where(relevant == 0, torch.nan, 0.0).double()
    scale = max(int((relevant > 0).sum()), 1)
    heaviest = torch.argsort(weight, descending=True)
    heaviest = heaviest[torch.argsort(row[heaviest], stable=True)]  # by user, then heaviest first
    best_rank = torch.arange(1, len(row) + 1, device=row.device) - (relevant.cumsum(0) - relevant)[row]
    best = weight[heaviest] * _discount(best_rank)
    metrics: dict[str, Tensor] = {}
    for k in ks:
        inside = (rank > 0) & (rank <= k)
        gain = _sum(row[inside], weight[inside], users)
        discounted = _sum(row[inside], weight[inside] * _discount(rank[inside]), users)
        metrics[f"Debiased Recall@{k}"] = gain * (scale / weight.sum()) + undefined
        metrics[f"Debiased NDCG@{k}"] = discounted * (scale / best[best_rank <= k].sum()) + undefined
    return {name: value.float() for name, value in metrics.items()}


def _discount(rank: Tensor) -> Tensor:
    return 1 / torch.log2(rank.double() + 1)


def _sum(row: Tensor, value: Tensor, users: int) -> Tensor:
    return torch.bincount(row, value, minlength=users)
