"""NDCG over the gain of all relevant items, as some publications have it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.evaluation.metrics import Targets


def full_ideal_ndcg(targets: Targets, ks: Sequence[int]) -> dict[str, Tensor]:
    """`sum_{r <= k} 1 / log2(r + 1)  /  sum_{j <= R} 1 / log2(j + 1)`, with the R relevant items of a user.

    NDCG divides by the best that a list of k can reach; this one by what a list of any length can. It is lower for
    users with more than k relevant items, who cannot reach 1. It serves to compare with numbers that were made so.

    Args:
        targets: the relevant items looked up.
        ks: cut-offs.

    Returns:
        `{"NDCG-all@20": [U] float32, ...}`; NaN for users without relevant items.

    Example:
        >>> targets = Targets(torch.tensor([0, 0]), torch.tensor([7, 8]), torch.tensor([1, 0]), users=1)
        >>> round(full_ideal_ndcg(targets, [1])["NDCG-all@1"].item(), 4)  # 1 / (1 + 1 / log2(3))
        0.6131
    """
    relevant = torch.bincount(targets.row, minlength=targets.users)
    most = int(relevant.max()) if targets.users else 0
    ideal = (1 / torch.log2(torch.arange(2, most + 2, device=targets.rank.device).double())).cumsum(0)
    undefined = torch.where(relevant == 0, torch.nan, 0.0).double()
    metrics = {}
    for k in ks:
        inside = (targets.rank > 0) & (targets.rank <= k)
        gain = 1 / torch.log2(targets.rank[inside].double() + 1)
        found = torch.bincount(targets.row[inside], gain, minlength=targets.users)
        metrics[f"NDCG-all@{k}"] = (found / ideal[relevant.clamp(min=1) - 1] + undefined).float()
    return metrics
