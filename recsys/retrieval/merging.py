"""Lists of several sources made one: quotas, least scores, caps of categories, and from whom each item came."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from recsys.retrieval.fusion import fuse
from recsys.retrieval.order import TopK
from recsys.retrieval.selection import LOW

_LOOK = 16
"""Columns after which it is asked whether all rows are full."""


class Shortfall(IntEnum):
    """Why a user has fewer than k items: the first of these rules, in their order, that leaves fewer than k."""

    NONE = 0
    """There are exactly k."""
    TOO_FEW_ITEMS = 1
    """The sources gave fewer than k different items."""
    MINIMUM = 2
    """Too few of them reach the least score of their source."""
    QUOTAS = 3
    """The quotas of the sources that gave enough are used up."""
    CAPS = 4
    """Too many of them are of the same categories."""
    COLD = 5
    """The user has no events and was to be skipped; `merge` never says so, the job does."""


class Merged(NamedTuple):
    """One list for each of B users, best first.

    Attributes:
        items: `[B, k]` int64 item ids; 0 where there are fewer.
        scores: `[B, k]` float32, each as its source gave it, so that those of two sources cannot be compared; `-inf`
            where there is no item.
        source: `[B, k]` int16, place of the source among the lists; -1 where there is no item.
        reason: `[B]` int8, a `Shortfall`.
    """

    items: Tensor
    scores: Tensor
    source: Tensor
    reason: Tensor


@dataclass(frozen=True)
class Caps:
    """At most so many items of a category in a list.

    Attributes:
        categories: `[n_items + 1]` int32, category of each item; 0: of none, and never capped.
        most: of any category, or `[n_categories + 1]` by category, of which place 0 is not read.

    Raises:
        ValueError: a category or a cap is negative, or a category has none.
    """

    categories: Tensor
    most: int | Tensor

    def __post_init__(self) -> None:
        least = int(self.categories.min()) if self.categories.numel() else 0
        largest = int(self.categories.max()) if self.categories.numel() else 0
        if least < 0 or (isinstance(self.most, Tensor) and largest >= len(self.most)):
            n = f"1..{len(self.most) - 1}" if isinstance(self.most, Tensor) else "1 and above"
            raise ValueError(f"categories must be 0 (none) or {n}, found {least}..{largest}")
        if int(torch.as_tensor(self.most).min()) < 0:
            raise ValueError(f"at most a negative number of items of a category: {self.most}")

    def of(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Category and cap of each item, int64; an item of no category has a cap that no list reaches."""
        categories = self.categories.to(items.device)[items].long()
        most = torch.as_tensor(self.most, device=items.device).long()
        caps = most.expand(categories.shape) if most.dim() == 0 else most[categories]
        return categories, caps.masked_fill(categories == 0, torch.iinfo(torch.int64).max)


class Order(ABC):
    """In which order the items of several lists are looked at.

    Scores of different models have nothing in common; an order reads who gave an item, and at which rank.
    """

    @abstractmethod
    def __call__(self, lists: Sequence[Tensor], n_items: int) -> Tensor:
        """The order of the columns of all lists, put together.

        Args:
            lists: `[B, k_l]` int64 item ids each, in the order in which sources are declared; 0: nothing.
            n_items: size of the catalogue.

        Returns:
            `[B, sum of k_l]` int64, a permutation of the columns in each row.
        """


@dataclass(frozen=True)
class BySource(Order):
    """All that the first source gave in its order, then the second, and so on."""

    def __call__(self, lists: Sequence[Tensor], n_items: int) -> Tensor:
        columns = torch.arange(sum(ids.shape[1] for ids in lists), device=lists[0].device)
        return columns.expand(len(lists[0]), -1)


@dataclass(frozen=True)
class ByReciprocalRank(Order):
    """What several sources rank high comes first; see `recsys.retrieval.fusion.fuse`.

    Attributes:
        weights: of the sources, positive; None: all 1.
        constant: how little the first ranks are preferred.
        tie_seed: seed of the order among equal sums; None: lower id first.
    """

    weights: tuple[float, ...] | None = None
    constant: float = 60.0
    tie_seed: int | None = 0

    def __call__(self, lists: Sequence[Tensor], n_items: int) -> Tensor:
        items = torch.cat(list(lists), dim=1)
        columns = max(items.shape[1], 1)
        fused = fuse(lists, n_items, columns, weights=self.weights, constant=self.constant, tie_seed=self.tie_seed)
        ordered, rank = fused.items.sort(dim=1)
        rank = rank.gather(1, torch.searchsorted(ordered, items.contiguous()).clamp_(max=columns - 1))
        # Stable: an item of several sources is looked at as that of the first of them.
        return rank.masked_fill(items == 0, columns).argsort(dim=1, stable=True)


@torch.no_grad()
def merge(
    lists: Sequence[TopK],
    k: int,
    *,
    n_items: int,
    quotas: Sequence[int | None] | None = None,
    order: Order | None = None,
    caps: Caps | None = None,
    minimum: Sequence[float | None] | None = None,
) -> Merged:
    """The first k items, in an order, that the rules let through; each once.

    Items are looked at one after the other. One that its source scores below the least score of the source is no item
    of that source. One is taken unless it was taken before, its source has given as many as its quota says, or its
    category is full. So a quota is the most that a source may give, counting what was taken from it alone: an item that
    a source could not give any more still counts for the next source that has it. To keep room for a source, give the
    others quotas that leave it.

    Args:
        lists: of each source, in the order in which they are declared: `[B, k_l]`, best first.
        k: number of items.
        n_items: size of the catalogue.
        quotas: the most items of each source; None: no limit.
        order: in which items are looked at; None: `BySource()`.
        caps: the most items of a category; None: no limit.
        minimum: the least score of each source, by its own scale; None: any.

    Raises:
        ValueError: there is no list, lists, quotas and least scores do not fit each other, an id lies outside
            0..n_items, a score is NaN, or k or a quota is not allowed.

    Example:
        >>> model = TopK(torch.tensor([[7, 8, 9]]), torch.tensor([[2.0, 1.0, 0.5]]))
        >>> popular = TopK(torch.tensor([[8, 5, 6]]), torch.tensor([[90.0, 80.0, 70.0]]))
        >>> merged = merge([model, popular], 5, n_items=9, quotas=[2, None])
        >>> merged.items.tolist(), merged.source.tolist()
        ([[7, 8, 5, 6, 0]], [[0, 0, 1, 1, -1]])
        >>> Shortfall(int(merged.reason[0])).name  # 9 would have been the fifth
        'QUOTAS'
    """
    n = len(lists)
    quotas = [None] * n if quotas is None else quotas
    minimum = [None] * n if minimum is None else minimum
    _check(lists, k, n_items, quotas, caps, minimum)
    given = torch.cat([top.items for top in lists], dim=1)
    scores = torch.cat([top.scores.float() for top in lists], dim=1)
    widths = [top.items.shape[1] for top in lists]
    source = torch.repeat_interleave(torch.arange(n), torch.tensor(widths)).to(given.device)
    least = torch.tensor([-torch.inf if low is None else low for low in minimum], dtype=torch.float64)
    items = given.masked_fill(scores.double() < least.to(given.device)[source], 0)

    look = (BySource() if order is None else order)(items.split(widths, dim=1), n_items)
    missing = max(k - look.shape[1], 0)
    looked_at = pad(items.gather(1, look), (0, missing))
    whose = pad(source.expand_as(look).gather(1, look), (0, missing))
    scores = pad(scores.gather(1, look), (0, missing))
    chosen = _choose(looked_at, whose, k, quotas, caps)
    found = chosen.sum(1)
    reason = torch.zeros(len(given), dtype=torch.int8, device=given.device)
    short = (found < k).nonzero().squeeze(1)
    if len(short):
        uncapped = _choose(looked_at[short], whose[short], k, quotas, None).sum(1)
        reason[short] = _reasons(given[short], items[short], uncapped, k)
    # The columns that are chosen, in their order, then others that are hidden.
    first = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, :k]
    none = torch.arange(k, device=given.device) >= found[:, None]
    return Merged(
        items=looked_at.gather(1, first).masked_fill(none, 0),
        scores=scores.gather(1, first).masked_fill(none, -torch.inf),
        source=whose.gather(1, first).masked_fill(none, -1).short(),
        reason=reason,
    )


def _choose(items: Tensor, source: Tensor, k: int, quotas: Sequence[int | None], caps: Caps | None) -> Tensor:
    """Which of the items `[B, L]`, looked at from left to right, are taken: `[B, L]` bool."""
    same = _numbered(items)
    most = torch.iinfo(torch.int64).max
    room = torch.tensor([most if quota is None else quota for quota in quotas], device=items.device)
    room = room.expand(len(items), -1).clone()
    free = torch.zeros_like(items, dtype=torch.bool).scatter_(1, same, items > 0)
    left = torch.full((len(items), 1), k, device=items.device)
    # What does not change is cut into columns beforehand, `[B, 1]` each.
    columns = [part.split(1, dim=1) for part in (same, source.contiguous())]
    if caps is not None:
        categories, most_of = caps.of(items)
        category = _numbered(categories)
        shelf = torch.zeros_like(items).scatter_(1, category, most_of)
        columns.append(category.split(1, dim=1))
    taken = []
    for at, (item, whose, *kind) in enumerate(zip(*columns, strict=True)):
        if at % _LOOK == 0 and not bool((left > 0).any()):
            break
        take = free.gather(1, item) & (room.gather(1, whose) > 0) & (left > 0)
        for category in kind:
            take &= shelf.gather(1, category) > 0
            shelf.scatter_add_(1, category, -take.long())
        free.scatter_(1, item, free.gather(1, item) & ~take)
        room.scatter_add_(1, whose, -take.long())
        left -= take.long()
        taken.append(take)
    chosen = torch.zeros_like(items, dtype=torch.bool)
    if taken:
        chosen[:, : len(taken)] = torch.cat(taken, dim=1)
    return chosen


def _numbered(values: Tensor) -> Tensor:
    """`[B, L]` numbers from 0 for values: equal ones in a row, and they alone, have equal numbers."""
    place = torch.arange(values.shape[1], device=values.device)
    ordered = _ascending(values << 32 | place)
    value = ordered >> 32
    number = (value.diff(dim=1, prepend=value[:, :1]) != 0).cumsum(1)
    return torch.zeros_like(values).scatter_(1, ordered & LOW, number)


def _ascending(values: Tensor) -> Tensor:
    """Each row sorted; numpy sorts with vector instructions on a CPU."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1))


def _reasons(given: Tensor, items: Tensor, uncapped: Tensor, k: int) -> Tensor:
    """The `Shortfall` of rows that got fewer than k of the items `given`, of which `items` reach the least scores."""
    reason = torch.full_like(uncapped, Shortfall.CAPS)
    reason[uncapped < k] = Shortfall.QUOTAS
    reason[_distinct(items) < k] = Shortfall.MINIMUM
    reason[_distinct(given) < k] = Shortfall.TOO_FEW_ITEMS
    return reason.to(torch.int8)


def _distinct(items: Tensor) -> Tensor:
    """How many different items, other than 0, each row has."""
    return (_ascending(items).diff(dim=1, prepend=items.new_zeros(len(items), 1)) != 0).sum(1)


def _check(
    lists: Sequence[TopK],
    k: int,
    n_items: int,
    quotas: Sequence[int | None],
    caps: Caps | None,
    minimum: Sequence[float | None],
) -> None:
    if not lists or len({top.items.shape[0] for top in lists}) != 1:
        raise ValueError(
            f"lists of the same users are wanted; got {[list(top.items.shape) for top in lists] or 'none'}"
        )
    if not len(quotas) == len(minimum) == len(lists):
        raise ValueError(
            f"a quota and a least score for each of {len(lists)} sources, not {len(quotas)} and {len(minimum)}"
        )
    if k < 1 or any(quota is not None and quota < 0 for quota in quotas):
        raise ValueError(f"k must be at least 1 and quotas not negative: {k}, {list(quotas)}")
    if caps is not None and len(caps.categories) != n_items + 1:
        raise ValueError(f"categories of {len(caps.categories) - 1} items for a catalogue of {n_items}")
    for place, (items, scores) in enumerate(lists):
        if items.numel() and (int(items.min()) < 0 or int(items.max()) > n_items):
            raise ValueError(f"item ids must lie in 0..{n_items}, found {int(items.min())}..{int(items.max())}")
        if scores.isnan().any():
            raise ValueError(f"source {place} gave {int(scores.isnan().sum())} scores that are NaN")
