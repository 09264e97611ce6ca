"""Metrics of scored lists whose documents have grades of relevance.

    NDCG@k = sum_{r <= k} (2^y_r - 1) / log2(r + 1)  /  the same of the best order
    ERR@k  = sum_{r <= k} 1/r R_r prod_{j < r} (1 - R_j)      with R = (2^y - 1) / 2^highest

A list without a relevant document has no value (NaN). Lists are judged whole and by true grades, never by clicks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KS = (1, 3, 5, 10)


def graded_metrics(
    scores: Tensor, label: Tensor, mask: Tensor, ks: Sequence[int] = KS, highest: int = 4
) -> dict[str, Tensor]:
    """NDCG and ERR at each k, per list; documents with equal scores keep their order.

    Args:
        scores: `[Q, D]`.
        label: `[Q, D]` int64 grades 0..highest.
        mask: `[Q, D]` bool, false where a list is shorter.
        ks: cut-offs from 1; a list that is shorter is judged whole.
        highest: grade of the most relevant documents.

    Returns:
        `{"NDCG@10": [Q] float64, ..., "ERR@10": ...}`.

    Raises:
        ValueError: a cut-off is below 1, or a grade is not in 0..highest.

    Source:
        Järvelin and Kekäläinen, TOIS 2002 (with exponential gain); Chapelle et al., CIKM 2009 (ERR).

    Example:
        >>> scores, label = torch.tensor([[3.0, 2.0]]), torch.tensor([[0, 1]])
        >>> round(graded_metrics(scores, label, torch.ones(1, 2, dtype=torch.bool), ks=[2])["NDCG@2"].item(), 4)
        0.6309
    """
    if min(ks) < 1:
        raise ValueError(f"cut-offs start at 1, not at {min(ks)}")
    judged = label.masked_fill(~mask, 0)
    if bool(((judged < 0) | (judged > highest)).any()):
        raise ValueError(f"grades lie between 0 and {highest}, not {int(judged.min())} to {int(judged.max())}")
    order = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    gain = (torch.exp2(judged.double()) - 1).gather(1, order)
    rank = torch.arange(1, gain.shape[1] + 1, dtype=torch.float64, device=gain.device)
    discount = torch.log2(rank + 1)
    reached = (gain / discount).cumsum(1)
    best = (gain.sort(dim=1, descending=True).values / discount).cumsum(1)
    satisfied = gain / 2**highest
    goes_on = torch.cat([torch.ones_like(gain[:, :1]), (1 - satisfied[:, :-1]).cumprod(1)], dim=1)
    reciprocal = (satisfied * goes_on / rank).cumsum(1)
    undefined = torch.where(gain.sum(1) == 0, torch.nan, 0.0)
    metrics: dict[str, Tensor] = {}
    for k in ks:
        last = min(k, gain.shape[1]) - 1
        metrics[f"NDCG@{k}"] = reached[:, last] / best[:, last] + undefined
        metrics[f"ERR@{k}"] = reciprocal[:, last] + undefined
    return metrics
