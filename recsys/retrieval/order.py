"""The order of the items that decides among equal scores.

Every candidate of a row gets one int64 key, `sortable(score) << 32 | (2^32 - 1 - place)`: the order of the keys is
"higher score first, then lower place", places being a seeded permutation of the items. Keys are distinct, so the result
does not depend on what `torch.topk` does with equal values, on the block sizes or on the device; and the best keys of
parts of the catalogue, put together, hold the best keys of the whole.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recsys.retrieval.selection import LOW, score_of


class TopK(NamedTuple):
    """The k best items of each row, best first.

    Attributes:
        items: `[B, k]` int64 item ids; 0 where fewer than k items could be given.
        scores: `[B, k]` float32; `-inf` there.
    """

    items: Tensor
    scores: Tensor


class Jagged(NamedTuple):
    """A list of ids per row: row b owns `values[offsets[b]:offsets[b + 1]]`.

    Attributes:
        values: `[T]` int64.
        offsets: `[B + 1]` int64, from 0 to T.
    """

    values: Tensor
    offsets: Tensor


class ItemOrder:
    """The items that may be given, each in its place.

    Memory: 16 bytes an item.

    Args:
        n_items: size of the catalogue.
        allow: `[A]` int64, the only ids anybody may get; None: all.
        deny: `[D]` int64, ids nobody may get; None: none.
        tie_seed: seed of the order; None: lower id first.

    Attributes:
        items: `[n]` int64 ids, by place.

    Raises:
        ValueError: an id lies outside 0..n_items.
    """

    @torch.no_grad()
    def __init__(
        self, n_items: int, allow: Tensor | None = None, deny: Tensor | None = None, tie_seed: int | None = 0
    ) -> None:
        self.n_items = n_items
        candidates = torch.ones(n_items + 1, dtype=torch.bool)
        if allow is not None:
            candidates = torch.zeros_like(candidates)
            candidates[self._checked(allow).cpu()] = True
        if deny is not None:
            candidates[self._checked(deny).cpu()] = False
        candidates[0] = False
        order = candidates.nonzero().squeeze(1)
        if tie_seed is not None:
            # Drawn over the whole catalogue, so that a list of allowed ids does not change who wins a tie.
            position = torch.randperm(n_items + 1, generator=torch.Generator().manual_seed(tie_seed))
            order = order[position[order].argsort()]
        self.items = order
        self._place = torch.full((n_items + 1,), -1, dtype=torch.int64)
        self._place[order] = torch.arange(len(order))

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device) -> None:
        """Moves the order, in place."""
        self.items, self._place = self.items.to(device), self._place.to(device)

    def places(self, ids: Jagged | tuple[Tensor, Tensor], rows: int) -> Jagged:
        """The places of the ids of `rows` rows, on the device of the order; -1 for ids that may not be given.

        Raises:
            ValueError: there are ids for another number of rows, or an id lies outside 0..n_items.
        """
        values, offsets = (part.to(self.items.device) for part in ids)
        if len(offsets) != rows + 1:
            raise ValueError(f"{len(offsets) - 1} rows of ids for {rows} users")
        return Jagged(self._place[self._checked(values)], offsets)

    def top(self, keys: Tensor) -> TopK:
        """The items and scores of keys `[B, k]`."""
        scores = score_of(keys)
        none = scores == -torch.inf
        places = (LOW - (keys & LOW)).masked_fill_(none, 0)
        items = self.items[places] if len(self) else places
        return TopK(items.masked_fill(none, 0), scores)

    def _checked(self, ids: Tensor) -> Tensor:
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > self.n_items):
            raise ValueError(f"item ids must lie in 0..{self.n_items}, found {int(ids.min())}..{int(ids.max())}")
        return ids.long()
