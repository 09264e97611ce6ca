"""What all lists together show of the catalogue: coverage, novelty, concentration, and items by popularity.

Popularity is always the number of training events of an item. Items that training knows are ordered by it (ties by
id) and cut into ten deciles of equal numbers of items: decile 1 is the most popular. Head, torso and tail are deciles
1-2, 3-5 and 6-10; an item without training events is cold (decile 0).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUPS = ("cold", "head", "torso", "tail")
"""Names of the popularity groups; `group_of_decile` gives their index."""


def popularity_deciles(counts: NDArray[np.integer]) -> NDArray[np.int8]:
    """The decile of each item.

    Args:
        counts: `[n_items + 1]` training events of each item.

    Returns:
        `[n_items + 1]` int8: 1 (most popular) to 10; 0 for cold items and padding.

    Example:
        >>> popularity_deciles(np.array([0, 5, 0, 9])).tolist()
        [0, 6, 0, 1]
    """
    deciles = np.zeros(len(counts), dtype=np.int8)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    deciles[order] = np.arange(len(order)) * 10 // max(len(order), 1) + 1
    return deciles


def group_of_decile(deciles: NDArray[np.int8]) -> NDArray[np.int8]:
    """Index into `GROUPS` of each decile.

    Example:
        >>> [GROUPS[i] for i in group_of_decile(np.array([0, 2, 3, 5, 6]))]
        ['cold', 'head', 'torso', 'torso', 'tail']
    """
    return np.searchsorted([0, 2, 5, 10], deciles).astype(np.int8)


def group_of_events(counts: NDArray[np.integer], head: float = 0.1, tail: int = 5) -> NDArray[np.int8]:
    """Index into `GROUPS` of each item by its number of training events, as studies of the long tail draw the lines.

    Cold items have no event, tail ones `tail` at most; head is the `head` share of the most popular of the items that
    training knows (ties by id), where it has more events than that; torso is the rest.

    Args:
        counts: `[n_items + 1]` training events of each item.
        head: share of the items that training knows, between 0 and 1.
        tail: events.

    Returns:
        `[n_items + 1]` int8; 0, cold, for padding.

    Example:
        >>> [GROUPS[i] for i in group_of_events(np.array([0, 9, 0, 7, 5, 8]), head=0.5)]
        ['cold', 'head', 'cold', 'torso', 'tail', 'head']
    """
    groups = np.full(len(counts), GROUPS.index("torso"), dtype=np.int8)
    order = np.argsort(-counts, kind="stable")
    known = int(np.count_nonzero(counts))
    groups[order[: round(head * known)]] = GROUPS.index("head")
    groups[counts <= tail] = GROUPS.index("tail")
    groups[counts == 0] = GROUPS.index("cold")
    return groups


def group_shares(ranked: Tensor, groups: Tensor) -> dict[str, float]:
    """Share of the recommended items in each group.

    Args:
        ranked: `[U, K]` item ids, 0 where the list is shorter.
        groups: `[n_items + 1]` int64 index into `GROUPS`.

    Returns:
        Shares by name; NaN where nothing is recommended.
    """
    shown = torch.bincount(groups[ranked[ranked > 0].long()], minlength=len(GROUPS))
    return dict(zip(GROUPS, (shown / shown.sum()).tolist(), strict=True))


def exposure_metrics(ranked: Tensor, counts: NDArray[np.integer], ks: Sequence[int]) -> dict[str, float]:
    """Metrics of all lists together, at each k.

        Coverage@k = distinct items recommended / n_items
        Novelty@k  = mean over recommended items of -log2(max(n_i, 1) / sum_j n_j), in bits
        Gini@k     = Gini coefficient of how often each of the n_items is recommended (0 equal, 1 one item)
        Head@k, Torso@k, Tail@k, Cold@k = share of the recommended items in each popularity group

    Novelty: mean self-information (Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender
    systems", PNAS 2010).

    Args:
        ranked: `[U, K]` item ids, 0 where the list is shorter.
        counts: `[n_items + 1]` training events of each item.
        ks: cut-offs.

    Returns:
        Values by name; NaN where nothing is recommended.
    """
    n_items = len(counts) - 1
    groups = torch.from_numpy(group_of_decile(popularity_deciles(counts)).astype(np.int64)).to(ranked.device)
    events = torch.from_numpy(np.asarray(counts, dtype=np.float64)).to(ranked.device)
    information = -torch.log2(events.clamp(min=1) / events.sum().clamp(min=1))
    place = torch.arange(1, n_items + 1, device=ranked.device, dtype=torch.float64)
    metrics: dict[str, float] = {}
    for k in ks:
        exposure = torch.bincount(ranked[:, :k].reshape(-1).long(), minlength=n_items + 1).double()
        exposure[0] = 0
        total = exposure.sum()
        ordered = exposure[1:].sort().values
        metrics[f"Coverage@{k}"] = float((exposure > 0).sum() / n_items)
        metrics[f"Novelty@{k}"] = float((exposure * information).sum() / total)
        metrics[f"Gini@{k}"] = float((ordered * (2 * place - n_items - 1)).sum() / (total * n_items))
        shares = group_shares(ranked[:, :k], groups)
        metrics |= {f"{name.capitalize()}@{k}": share for name, share in shares.items()}
    return metrics
