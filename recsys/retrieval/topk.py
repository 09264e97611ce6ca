"""Exact top-k of the whole catalogue: blocked, filtered, with ties broken by a seed.

Every candidate of a row gets one int64 key, `sortable(score) << 32 | (2^32 - 1 - rank)`: the order of the keys is
"higher score first, then lower rank", ranks being a seeded permutation of the items. Keys are distinct, so the result
does not depend on what `torch.topk` does with equal values, on the block sizes or on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.selection import LOW, MAGNITUDE, NOTHING, columns_of_largest, keys_of, largest
from recsys.retrieval.threads import in_threads

BUDGET_BYTES = 64 * 2**20
"""Default size of the block of scores held at a time (work buffers beside it are smaller): users x items x 4 bytes."""

_GROUP = 8
_USER_BLOCK = 256
_ITEM_BLOCK = 16_384


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


def recommend(
    model: Recommender,
    batch: SequenceBatch,
    k: int,
    *,
    seen: Jagged | tuple[Tensor, Tensor] | None = None,
    allow: Tensor | Jagged | None = None,
    deny: Tensor | Jagged | None = None,
    tie_seed: int | None = 0,
    budget: int = BUDGET_BYTES,
) -> TopK:
    """The k best items for each user of a batch.

    Args:
        model: any recommender; a `VectorRecommender` is scored block by block, others through `scores`.
        batch: B histories.
        k: number of items per user.
        seen: ids each user must not get, in most cases the user's whole history (not only what the model reads).
        allow: the only ids that may be given: a tensor `[A]` for everybody, or jagged ids per user.
        deny: ids that may not be given: a tensor `[D]` for everybody, or jagged ids per user.
        tie_seed: seed of the order among equal scores; None: lower id first.
        budget: bytes of scores held at a time.

    Returns:
        Exactly k columns; no item twice in a row; 0 / `-inf` where fewer than k items are allowed.

    Raises:
        ValueError: a score is NaN or infinite, an id lies outside 0..n_items, or k is not positive.
    """
    shared_allow, own_allow = (None, allow) if isinstance(allow, tuple) else (allow, None)
    shared_deny, own_deny = (None, deny) if isinstance(deny, tuple) else (deny, None)
    ranker = Ranker(model, allow=shared_allow, deny=shared_deny, tie_seed=tie_seed, budget=budget)
    return ranker(batch, k, seen=seen, allow=own_allow, deny=own_deny)


class Ranker:
    """Ranks batch after batch with one model; item vectors are computed and laid out once.

    Args:
        model: the recommender.
        allow: `[A]` int64, the only ids anybody may get; None: all.
        deny: `[D]` int64, ids nobody may get; None: none.
        tie_seed: seed of the order among equal scores; None: lower id first.
        budget: bytes of scores held at a time.

    Raises:
        ValueError: an id lies outside 0..n_items.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Recommender,
        *,
        allow: Tensor | None = None,
        deny: Tensor | None = None,
        tie_seed: int | None = 0,
        budget: int = BUDGET_BYTES,
    ) -> None:
        self.model = model
        self.budget = budget
        candidates = torch.ones(model.n_items + 1, dtype=torch.bool)
        if allow is not None:
            candidates = torch.zeros_like(candidates)
            candidates[_checked(allow, model.n_items).cpu()] = True
        if deny is not None:
            candidates[_checked(deny, model.n_items).cpu()] = False
        candidates[0] = False
        order = candidates.nonzero().squeeze(1)
        if tie_seed is not None:
            # Drawn over the whole catalogue, so that a list of allowed ids does not change who wins a tie.
            position = torch.randperm(model.n_items + 1, generator=torch.Generator().manual_seed(tie_seed))
            order = order[position[order].argsort()]
        self._n = len(order)
        self._blocks = max(1, -(-self._n // _ITEM_BLOCK))
        self._groups = -(-self._n // (self._blocks * _GROUP))
        # Columns of a block. Those beyond the last rank repeat an item, and score -inf.
        self._width = self._groups * _GROUP
        self._order = order  # rank -> item id
        self._rank = torch.full((model.n_items + 1,), -1, dtype=torch.int64)
        self._rank[order] = torch.arange(self._n)
        self._columns: Tensor | None = None
        self._vectors: Tensor | None = None

    @torch.no_grad()
    def prepare(self, device: torch.device) -> None:
        """Lays the items out, on the device of the model, in the columns of the blocks; a call does it when needed.

        Do it before several threads rank with one ranker.
        """
        if self._columns is not None and self._columns.device == device:
            return
        self._order, self._rank = self._order.to(device), self._rank.to(device)
        # The ranks of a group are neighbours, and its columns lie `groups` apart: maxima over strided columns are fast.
        ranks = torch.arange(self._blocks * self._width, device=device).clamp_(max=max(self._n - 1, 0))
        ranks = ranks.view(self._blocks, self._groups, _GROUP).transpose(1, 2).reshape(self._blocks, self._width)
        self._columns = self._order[ranks] if self._n else ranks
        if isinstance(self.model, VectorRecommender) and self._n:
            vectors = self.model.item_vectors(self._columns.flatten()).float()
            self._vectors = vectors.view(self._blocks, self._width, -1)

    @torch.no_grad()
    def __call__(
        self,
        batch: SequenceBatch,
        k: int,
        *,
        seen: Jagged | tuple[Tensor, Tensor] | None = None,
        allow: Jagged | tuple[Tensor, Tensor] | None = None,
        deny: Jagged | tuple[Tensor, Tensor] | None = None,
    ) -> TopK:
        """Ranks the users of a batch; arguments and errors as in `recommend`, lists per user only."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        if isinstance(self.model, VectorRecommender):
            source = self.model.user_vectors(batch).float()
        else:
            source = self.model.scores(batch)
        rows, device = source.shape[0], source.device
        self.prepare(device)
        removed = [self._ranks(ids, rows, device) for ids in (seen, deny) if ids is not None]
        allowed = self._ranks(allow, rows, device) if allow is not None else None
        keys = torch.full((rows, k), NOTHING, dtype=torch.int64, device=device)
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        most = _USER_BLOCK if device.type == "cpu" else rows
        height = max(1, min(most, -(-rows // threads), self.budget // (4 * threads * max(self._width, 1))))
        tops = range(0, rows if self._n else 0, height)

        @torch.no_grad()
        def rank(top: int) -> None:
            bottom = min(top + height, rows)
            buffer = torch.empty(bottom - top, self._width, device=device)
            for block in range(self._blocks):
                scores = self._scores(source[top:bottom], block, buffer)
                _check_finite(scores)
                if allowed is not None:
                    at = self._inside(allowed, top, bottom, block)
                    kept = scores.view(-1)[at]
                    scores.fill_(-torch.inf).view(-1)[at] = kept
                for ids in removed:
                    scores.view(-1)[self._inside(ids, top, bottom, block)] = -torch.inf
                self._hide_padding(scores, block)
                keys[top:bottom] = largest(torch.cat([keys[top:bottom], self._best(scores, block, k)], 1), k)

        in_threads(rank, tops, threads)
        return self._decode(keys)

    def _scores(self, source: Tensor, block: int, out: Tensor) -> Tensor:
        if self._vectors is not None:
            return torch.mm(source, self._vectors[block].T, out=out)
        assert self._columns is not None
        return out.copy_(source.index_select(1, self._columns[block]))

    def _hide_padding(self, scores: Tensor, block: int) -> None:
        """Gives `-inf` to the columns of the last block that repeat an item."""
        spare = (block + 1) * self._width - self._n
        if spare > 0:
            ranks = torch.arange(self._width - spare, self._width, device=scores.device)
            scores[:, self._column(ranks)] = -torch.inf

    def _column(self, local: Tensor) -> Tensor:
        """The column, within its block, of a rank counted from the first of the block."""
        return local % _GROUP * self._groups + local // _GROUP

    def _best(self, scores: Tensor, block: int, k: int) -> Tensor:
        """The keys of (at least) the k best of a block `[B, width]`.

        Only the k best groups, by maximum and then by rank, can hold one of the k best items: each group before them
        has an item that is better. So most columns are read once, for the maxima, and never compared again.
        """
        rows = scores.shape[0]
        group = torch.arange(self._groups, device=scores.device).expand(1, -1)
        if k < self._groups:
            maxima = scores.view(rows, _GROUP, self._groups).amax(1)
            found = columns_of_largest(maxima, k)
            group = LOW - (largest(keys_of(maxima, group), k) & LOW) if found is None else found
        member = torch.arange(_GROUP, device=scores.device)[:, None]
        column = (group[:, None] + member * self._groups).flatten(1).expand(rows, -1)
        rank = (group[:, None] * _GROUP + (member + block * self._width)).flatten(1).expand(rows, -1)
        best = scores.gather(1, column)
        found = columns_of_largest(best, k) if best.shape[1] > k else None
        return keys_of(best, rank) if found is None else keys_of(best.gather(1, found), rank.gather(1, found))

    def _inside(self, ids: Jagged, top: int, bottom: int, block: int) -> Tensor:
        """Flat positions of jagged ranks in the scores of the users top..bottom and one block of items."""
        begin, end = int(ids.offsets[top]), int(ids.offsets[bottom])
        local = ids.values[begin:end] - block * self._width
        row = torch.repeat_interleave(ids.offsets[top : bottom + 1].diff())
        chosen = (local >= 0) & (local < self._width) & (ids.values[begin:end] >= 0)
        return row[chosen] * self._width + self._column(local[chosen])

    def _ranks(self, jagged: Jagged | tuple[Tensor, Tensor], rows: int, device: torch.device) -> Jagged:
        """The ranks of jagged ids; ids that are no candidates get -1."""
        values, offsets = (part.to(device) for part in jagged)
        if len(offsets) != rows + 1:
            raise ValueError(f"{len(offsets) - 1} rows of ids for {rows} users")
        return Jagged(self._rank[_checked(values, self.model.n_items)], offsets)

    def _decode(self, keys: Tensor) -> TopK:
        high = (keys >> 32).int()
        scores = (high ^ ((high >> 31) & MAGNITUDE)).view(torch.float32)
        none = scores == -torch.inf
        ranks = (LOW - (keys & LOW)).masked_fill_(none, 0)
        items = self._order[ranks] if self._n else ranks
        return TopK(items.masked_fill(none, 0), scores)


def _checked(ids: Tensor, n_items: int) -> Tensor:
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) > n_items):
        raise ValueError(f"item ids must lie in 0..{n_items}, found {int(ids.min())}..{int(ids.max())}")
    return ids.long()


def _check_finite(block: Tensor) -> None:
    # The sum is one pass without a buffer; only when it is not finite is each score looked at.
    if not torch.isfinite(block.sum()) and not bool(torch.isfinite(block).all()):
        bad = block[~torch.isfinite(block)]
        raise ValueError(f"the model gave {len(bad)} scores that are NaN or infinite (the first: {bad[0].item()})")
