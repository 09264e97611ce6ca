"""The best of consecutive places of an order, whose scores are computed and looked at in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.retrieval.order import ItemOrder, Jagged
from recsys.retrieval.selection import LOW, NOTHING, columns_of_largest, keys_of, largest
from recsys.retrieval.threads import in_threads

BUDGET_BYTES = 64 * 2**20
"""Default size of the block of scores held at a time (work buffers beside it are smaller): users x items x 4 bytes."""

GROUP = 8
"""Neighbours in the order whose best is looked at first."""

_USER_BLOCK = 256
_ITEM_BLOCK = 16_384


class ItemBlocks:
    """Consecutive places of an order, laid out in the columns of blocks of equal width.

    Args:
        order: of the items.
        places: which of it.
        room: columns are laid out for so many places, those there are or one more, so that parts of one order can be
            laid out alike; None: for those there are.

    Attributes:
        items: `[blocks, width]` int64, the item of each column, once `lay_out` was called. Columns without a place
            repeat an item, and score `-inf`.
        vectors: `[blocks, width, d]` float32, once `hold` was called; None: scores are picked, not multiplied.
    """

    def __init__(self, order: ItemOrder, places: range, room: int | None = None) -> None:
        self._order, self._places = order, places
        room = len(places) if room is None else room
        self._blocks = max(1, -(-room // _ITEM_BLOCK))
        self._groups = -(-room // (self._blocks * GROUP))
        self._width = self._groups * GROUP
        self.items: Tensor | None = None
        self.vectors: Tensor | None = None

    def lay_out(self, device: torch.device) -> Tensor:
        """Moves the order to a device and lays its items out there, `[blocks, width]`."""
        self._order.to(device)
        # The places of a group are neighbours, and its columns lie `groups` apart: maxima over strided columns are
        # fast.
        places = torch.arange(self._blocks * self._width, device=device) + self._places.start
        places = places.clamp_(max=max(len(self._order) - 1, 0)).view(self._blocks, self._groups, GROUP)
        places = places.transpose(1, 2).reshape(self._blocks, self._width)
        self.items = self._order.items[places] if len(self._order) else places
        return self.items

    def hold(self, vectors: Tensor) -> None:
        """Takes the vectors of the items, `[blocks, width, d]` float32, for scores to be products."""
        self.vectors = vectors

    def vectors_at(self, places: Tensor) -> Tensor:
        """`[n, d]` the vectors at places `[n]` int64."""
        assert self.vectors is not None, "call hold first"
        local = places - self._places.start
        block = local // self._width
        return self.vectors.flatten(0, 1)[block * self._width + self._column(local % self._width)]

    def best(
        self,
        source: Tensor,
        k: int,
        removed: Sequence[Jagged] = (),
        allowed: Jagged | None = None,
        budget: int = BUDGET_BYTES,
    ) -> Tensor:
        """The keys of the k best items of each row, `[B, k]` int64, largest first; `NOTHING` where there are fewer.

        Args:
            source: `[B, d]` float32 user vectors; without `vectors` `[B, n_items + 1]` scores.
            k: number of items.
            removed: places that a row must not get, by row.
            allowed: the only places that a row may get, by row; None: all.
            budget: bytes of scores held at a time; one row of a block at least.

        Raises:
            ValueError: a score is NaN or infinite.
        """
        rows, device = source.shape[0], source.device
        keys = torch.full((rows, k), NOTHING, dtype=torch.int64, device=device)
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        most = _USER_BLOCK if device.type == "cpu" else rows
        height = max(1, min(most, -(-rows // threads), budget // (4 * threads * max(self._width, 1))))

        @torch.no_grad()
        def rank(top: int) -> None:
            bottom = min(top + height, rows)
            buffer = torch.empty(bottom - top, self._width, device=device)
            for block in range(self._blocks):
                scores = self._scores(source[top:bottom], block, buffer)
                _check_finite(scores)
                if allowed is not None:
                    row, column = self._inside(allowed, top, bottom, block)
                    at = row * self._width + column
                    kept = scores.view(-1)[at]
                    scores.fill_(-torch.inf).view(-1)[at] = kept
                for places in removed:
                    row, column = self._inside(places, top, bottom, block)
                    scores.view(-1)[row * self._width + column] = -torch.inf
                scores[:, self._spare(block, device)] = -torch.inf
                keys[top:bottom] = largest(torch.cat([keys[top:bottom], self._best(scores, block, k)], 1), k)

        in_threads(rank, range(0, rows if self._places else 0, height), threads)
        return keys

    def _scores(self, source: Tensor, block: int, out: Tensor) -> Tensor:
        if self.vectors is not None:
            return torch.mm(source, self.vectors[block].T, out=out)
        assert self.items is not None, "call lay_out first"
        return out.copy_(source.index_select(1, self.items[block]))

    def _spare(self, block: int, device: torch.device) -> Tensor:
        """The columns of a block that have no place: only the last block has any."""
        spare = max(0, (block + 1) * self._width - len(self._places))
        return self._column(torch.arange(self._width - spare, self._width, device=device))

    def _column(self, local: Tensor) -> Tensor:
        """The column, within its block, of a place counted from the first of the block."""
        return local % GROUP * self._groups + local // GROUP

    def _best(self, scores: Tensor, block: int, k: int) -> Tensor:
        """The keys of (at least) the k best of a block `[B, width]`.

        Only the k best groups, by maximum and then by place, can hold one of the k best items: each group before them
        has an item that is better. So most columns are read once, for the maxima, and never compared again.
        """
        rows = scores.shape[0]
        group = torch.arange(self._groups, device=scores.device).expand(1, -1)
        if k < self._groups:
            maxima = scores.view(rows, GROUP, self._groups).amax(1)
            found = columns_of_largest(maxima, k)
            group = LOW - (largest(keys_of(maxima, group), k) & LOW) if found is None else found
        member = torch.arange(GROUP, device=scores.device)[:, None]
        column = (group[:, None] + member * self._groups).flatten(1).expand(rows, -1)
        first = self._places.start + block * self._width
        place = (group[:, None] * GROUP + (member + first)).flatten(1).expand(rows, -1)
        best = scores.gather(1, column)
        found = columns_of_largest(best, k) if best.shape[1] > k else None
        return keys_of(best, place) if found is None else keys_of(best.gather(1, found), place.gather(1, found))

    def _inside(self, places: Jagged, top: int, bottom: int, block: int) -> tuple[Tensor, Tensor]:
        """Rows, counted from `top`, and columns of the jagged places of the rows top..bottom that lie in a block."""
        begin, end = int(places.offsets[top]), int(places.offsets[bottom])
        local = places.values[begin:end] - (self._places.start + block * self._width)
        row = torch.repeat_interleave(places.offsets[top : bottom + 1].diff())
        chosen = (local >= 0) & (local < self._width)
        return row[chosen], self._column(local[chosen])


def _check_finite(block: Tensor) -> None:
    # The sum is one pass without a buffer; only when it is not finite is each score looked at.
    if not torch.isfinite(block.sum()) and not bool(torch.isfinite(block).all()):
        bad = block[~torch.isfinite(block)]
        raise ValueError(f"the model gave {len(bad)} scores that are NaN or infinite (the first: {bad[0].item()})")
