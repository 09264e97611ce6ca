"""Whether propensities can be learned from a log at all: not where features tell the position."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from recsys.losses.ranks import total
from recsys.unbiased.shown_lists import ShownLists

TOO_PREDICTABLE = 0.6


class PositionConfounded(UserWarning):
    """Features predict the position too well for relevance and examination to be told apart."""


def position_r2(batches: Iterable[ShownLists]) -> float:
    """Share of the variance of the shown position within lists that a linear function of the features explains.

    Features and positions are centred within each list, as only differences within a list count in a softmax. Sums of
    squares are kept, so that memory grows with the features and not with the lists. A lower bound: a ranker that is no
    linear function of the features may still be known from them.

    Args:
        batches: the lists.

    Returns:
        R^2 between 0 and 1; 0 where no list has two documents.
    """
    products: Tensor | None = None
    for lists in batches:
        mask = lists.mask.unsqueeze(-1).double()
        at = torch.arange(lists.mask.shape[1], dtype=torch.float64, device=lists.mask.device)
        columns = torch.cat([lists.features.double(), at.expand(lists.mask.shape).unsqueeze(-1)], dim=-1) * mask
        mean = columns.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        centred = ((columns - mean) * mask).flatten(0, 1)
        own = centred.T @ centred
        products = own if products is None else products + own
    if products is None or products[-1, -1] <= 0:
        return 0.0
    scale = products.diagonal().clamp(min=torch.finfo(products.dtype).tiny).rsqrt()
    correlations = products * scale[:, None] * scale
    # The pseudo-inverse allows features that are sums of others.
    inverse = torch.linalg.pinv(correlations[:-1, :-1], rtol=1e-10, hermitian=True)
    return float((correlations[:-1, -1] @ inverse @ correlations[:-1, -1]).clamp(0, 1))


def scores_r2(scores: Tensor, mask: Tensor) -> Tensor:
    """What `position_r2` gives where a document's one feature is its score; within `across_ranks`, of all ranks' lists.

    Args:
        scores: `[B, L]` in shown order.
        mask: `[B, L]` bool, false where a list is shorter.

    Returns:
        Scalar float32 between 0 and 1; 0 where no list has two documents, or all of its scores are equal.

    Example:
        >>> scores_r2(torch.tensor([[2.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
        tensor(1.)
    """
    at = torch.arange(scores.shape[1], dtype=torch.float64, device=scores.device).expand(scores.shape)
    columns = torch.stack([scores.detach().double(), at]) * mask
    centred = (columns - columns.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)) * mask
    own, with_place, of_place = total(
        torch.stack([(centred[i] * centred[j]).sum() for i, j in ((0, 0), (0, 1), (1, 1))])
    )
    tiny = torch.finfo(own.dtype).tiny
    return (with_place.square() / (own * of_place).clamp(min=tiny)).clamp(max=1).float()


def places_elsewhere(item: Tensor) -> Tensor:
    """Where each shown item stands in the other lists that show it, as a feature for `position_r2`.

    Places are counted from the middle of a list. Lists that a production ranker without regard to the user has ordered
    show an item at similar places again and again, which a ranker that knows items by id learns.

    Args:
        item: `[N, L]` int64 item ids in shown order, 0 where a list has none.

    Returns:
        `[N, L, 1]` float64; 0 for an item that no other list shows.

    Example:
        >>> places_elsewhere(torch.tensor([[1, 2, 3], [3, 1, 4]])).squeeze(-1).tolist()
        [[0.0, 0.0, -1.0], [1.0, -1.0, 0.0]]
    """
    shown = item > 0
    at = torch.arange(item.shape[1], dtype=torch.float64, device=item.device).expand(item.shape)
    middle = (at * shown).sum(1, keepdim=True) / shown.sum(1, keepdim=True).clamp(min=1)
    place = (at - middle) * shown
    distinct, number = torch.unique(item, return_inverse=True)
    sums = place.new_zeros(len(distinct)).index_add(0, number.flatten(), place.flatten())
    counts = place.new_zeros(len(distinct)).index_add(0, number.flatten(), shown.double().flatten())
    others = (counts[number] - 1).clamp(min=1)
    return ((sums[number] - place) / others * (shown & (counts[number] > 1))).unsqueeze(-1)


def check_identifiable(batches: Iterable[ShownLists], limit: float = TOO_PREDICTABLE, what: str = "features") -> float:
    """Warns where the features tell the position, and returns how much they do.

    Args:
        batches: the lists.
        limit: R^2 above which is warned.
        what: what the warning calls the features, in the plural.

    Returns:
        What `position_r2` gives.

    Warns:
        PositionConfounded: propensities learned from this log are not reliable.
    """
    found = position_r2(batches)
    if found > limit:
        warnings.warn(
            f"{what} explain {found:.0%} of the variance of the shown position (limit {limit:.0%}): a ranker can "
            "learn position bias as relevance, and propensities come out too flat. Show 1 to 2 % of the lists with two "
            "neighbours swapped at random, add lists of another production ranker, or estimate propensities from "
            "shuffled lists",
            PositionConfounded,
            stacklevel=2,
        )
    return found
