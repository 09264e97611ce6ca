"""Recall, NDCG and MAP in which relevant items count by a weight, such as the inverse of their propensity.

With w the weight of an item, hits r_1 < r_2 < ... of a user within the first k places, and R its relevant items:

    Recall@k = sum_{r <= k} w_r / sum_R w
    NDCG@k   = sum_{r <= k} w_r / log2(r + 1)  /  (the best such sum of k places)
    MAP@k    = sum_{r <= k} (sum_{r' <= r} w_r') / r  /  sum_R w

Each is divided by the weights of the user's own relevant items: it is self-normalised (SNIPS). With equal weights they
are the metrics of Lee et al., SIGIR 2021, and other papers on lists of rated items; MAP then is divided by all relevant
items, not by those that fit the list as in `metrics`. A user without relevant items counts 0.

Source:
    Yang et al., "Unbiased Offline Recommender Evaluation for Missing-Not-At-Random Implicit Feedback", RecSys 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.evaluation.metrics import Targets


def weighted_metrics(targets: Targets, weight: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """The metrics at each k, per user.

    Args:
        targets: the relevant items looked up.
        weight: `[n_items + 1]` weights above 0.
        ks: cut-offs, at most the length of the lists.

    Returns:
        `{"NDCG@3": [U] float32, ...}`.

    Example:
        >>> targets = Targets(torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([2, 0]), users=1)
        >>> [round(v.item(), 4) for v in weighted_metrics(targets, torch.tensor([1.0, 1.0, 3.0]), [3]).values()]
        [0.25, 0.1738, 0.125]
    """
    row, item, rank, users = targets
    value = weight.to(row.device).double()[item]
    everything = torch.bincount(row, value, minlength=users)
    heaviest = torch.argsort(value, descending=True)
    heaviest = heaviest[torch.argsort(row[heaviest], stable=True)]  # by user, then heaviest first
    count = torch.bincount(row, minlength=users)
    place = torch.arange(1, len(row) + 1, device=row.device) - (count.cumsum(0) - count)[row]
    best = value[heaviest] / torch.log2(place + 1.0)

    hit = torch.nonzero(rank > 0)[:, 0]
    hit = hit[torch.argsort(rank[hit], stable=True)]
    hit = hit[torch.argsort(row[hit], stable=True)]  # by user, then by rank
    row_hit, at, gain = row[hit], rank[hit].double(), value[hit]
    so_far = gain.cumsum(0)
    before = torch.cat([so_far.new_zeros(1), so_far])[torch.searchsorted(row_hit, row_hit)]
    precision = (so_far - before) / at

    def per_user(values: Tensor, keep: Tensor, rows: Tensor) -> Tensor:
        return torch.bincount(rows[keep], values[keep], minlength=users)

    metrics: dict[str, Tensor] = {}
    for k in ks:
        inside = at <= k
        ideal = per_user(best, place <= k, row)
        metrics[f"Recall@{k}"] = _share(per_user(gain, inside, row_hit), everything)
        metrics[f"NDCG@{k}"] = _share(per_user(gain / torch.log2(at + 1), inside, row_hit), ideal)
        metrics[f"MAP@{k}"] = _share(per_user(precision, inside, row_hit), everything)
    return {name: values.float() for name, values in metrics.items()}


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Part over whole, 0 of nothing."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)
