"""Ranking metrics per user, from ranked ids and the relevant ids of each user.

With `hit_r = 1` when the item at rank r (from 1) is relevant, `R` the number of distinct relevant items of the user:

    HR@k     = 1 when any hit_r, r <= k
    Recall@k = sum_{r<=k} hit_r / R
    NDCG@k   = sum_{r<=k} hit_r / log2(r + 1)  /  sum_{r<=min(k, R)} 1 / log2(r + 1)
    MRR@k    = 1 / r of the first hit within k, else 0
    MAP@k    = sum_{r<=k} hit_r * precision@r  /  min(k, R)

A user without relevant items has no value (NaN).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.retrieval.topk import Jagged


def hits(ranked: Tensor, relevant: Jagged | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Which ranked items are relevant.

    Args:
        ranked: `[U, K]` item ids, best first, 0 where the list is shorter.
        relevant: jagged ids of each user; an id named twice counts once, 0 counts for nothing.

    Returns:
        `[U, K]` bool hits and `[U]` int64 numbers of distinct relevant items.

    Raises:
        ValueError: ranked ids repeat an item, or the numbers of users differ.
    """
    values, offsets = (part.to(ranked.device).long() for part in relevant)
    users = ranked.shape[0]
    if len(offsets) != users + 1:
        raise ValueError(f"{len(offsets) - 1} rows of relevant items for {users} ranked lists")
    ranked = ranked.long()
    ordered = ranked.sort(1).values
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)).any()):
        raise ValueError("a ranked list names an item twice")
    row = torch.repeat_interleave(offsets.diff())
    stride = int(max(values.max() if len(values) else 0, ranked.max() if ranked.numel() else 0)) + 1
    pairs = torch.unique(row[values != 0] * stride + values[values != 0])  # sorted (user, item)
    counts = torch.bincount(pairs // stride, minlength=users)
    if not len(pairs):
        return torch.zeros_like(ranked, dtype=torch.bool), counts
    wanted = torch.arange(users, device=ranked.device)[:, None] * stride + ranked
    found = torch.searchsorted(pairs, wanted).clamp_(max=len(pairs) - 1)
    return (pairs[found] == wanted) & (ranked != 0), counts


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
        ValueError: a cut-off is not in 1..K, a list names an item twice, or the numbers of users differ.

    Example:
        >>> ranked = torch.tensor([[3, 1, 2]])
        >>> relevant = (torch.tensor([1]), torch.tensor([0, 1]))
        >>> round(float(ranking_metrics(ranked, relevant, ks=[3])["NDCG@3"]), 4)
        0.6309
    """
    for k in ks:
        if not 1 <= k <= ranked.shape[1]:
            raise ValueError(f"cut-off {k} needs ranked lists of that length; they have {ranked.shape[1]}")
    hit, counts = hits(ranked, relevant)
    gain = hit.double()
    rank = torch.arange(1, ranked.shape[1] + 1, device=ranked.device, dtype=torch.float64)
    discount = 1 / torch.log2(rank + 1)
    ideal = discount.cumsum(0)
    dcg = (gain * discount).cumsum(1)
    found = gain.cumsum(1)
    reciprocal = (gain / rank).cummax(1).values
    precision = (gain * found / rank).cumsum(1)
    size = counts.double()
    size[counts == 0] = torch.nan
    metrics: dict[str, Tensor] = {}
    for k in ks:
        best = counts.clamp(1, k)
        none = torch.where(counts == 0, torch.nan, 0.0)
        metrics[f"HR@{k}"] = (found[:, k - 1] > 0) + none
        metrics[f"Recall@{k}"] = found[:, k - 1] / size
        metrics[f"NDCG@{k}"] = dcg[:, k - 1] / ideal[best - 1] + none
        metrics[f"MRR@{k}"] = reciprocal[:, k - 1] + none
        metrics[f"MAP@{k}"] = precision[:, k - 1] / best + none
    return {name: value.float() for name, value in metrics.items()}
