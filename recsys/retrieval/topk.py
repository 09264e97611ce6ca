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

BUDGET_BYTES = 64 * 2**20
"""Default size of the block of scores held at a time; the work buffers beside it are smaller than the block."""

_LOW = 0xFFFFFFFF
_SIGN = 0x7FFFFFFF


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
    shared = {
        "allow": None if isinstance(allow, tuple) else allow,
        "deny": None if isinstance(deny, tuple) else deny,
    }
    own = {"allow": allow if isinstance(allow, tuple) else None, "deny": deny if isinstance(deny, tuple) else None}
    return Ranker(model, **shared, tie_seed=tie_seed, budget=budget)(batch, k, seen=seen, **own)


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
            # The order is drawn over the whole catalogue, so that a list of allowed ids does not change who wins a tie.
            position = torch.randperm(model.n_items + 1, generator=torch.Generator().manual_seed(tie_seed))
            order = order[position[order].argsort()]
        self._order = order  # rank -> item id
        self._rank = torch.full((model.n_items + 1,), -1, dtype=torch.int64)
        self._rank[order] = torch.arange(len(order))
        self._vectors: Tensor | None = None

    def _prepare(self, device: torch.device) -> None:
        """Moves the order to the device of the model and, the first time, computes the item vectors in that order."""
        self._order, self._rank = self._order.to(device), self._rank.to(device)
        if self._vectors is None and isinstance(self.model, VectorRecommender):
            self._vectors = self.model.item_vectors(self._order).float()

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
            users = self.model.user_vectors(batch).float()
            full = None
        else:
            users = full = self.model.scores(batch)
        rows, device, n = users.shape[0], users.device, len(self._order)
        self._prepare(device)
        removed = [self._flat(jagged, rows, device) for jagged in (seen, deny) if jagged is not None]
        allowed = self._flat(allow, rows, device) if allow is not None else None
        width = max(1, min(n, self.budget // 4))
        height = max(1, min(rows, 1024, self.budget // (4 * width)))
        keys = torch.empty(rows, k, dtype=torch.int64, device=device)
        lowest = _keys(torch.full((), -torch.inf, device=device), torch.full((), _LOW, device=device))
        for top in range(0, rows, height):
            bottom = min(top + height, rows)
            best = lowest.expand(bottom - top, k)
            for left in range(0, n, width):
                right = min(left + width, n)
                if full is None:
                    assert self._vectors is not None
                    block = users[top:bottom] @ self._vectors[left:right].T
                else:
                    block = full[top:bottom].index_select(1, self._order[left:right]).float()
                _check_finite(block)
                if allowed is not None:
                    at = _inside(allowed, top, bottom, left, right)
                    kept = torch.full_like(block, -torch.inf)
                    kept.view(-1)[at] = block.view(-1)[at]
                    block = kept
                for filtered in removed:
                    block.view(-1)[_inside(filtered, top, bottom, left, right)] = -torch.inf
                best = _merge(best, block, left, k)
            keys[top:bottom] = best
        return self._decode(keys)

    def _flat(self, jagged: Jagged | tuple[Tensor, Tensor], rows: int, device: torch.device) -> Jagged:
        """The ranks of jagged ids; ids that are no candidates get -1."""
        values, offsets = (part.to(device) for part in jagged)
        if len(offsets) != rows + 1:
            raise ValueError(f"{len(offsets) - 1} rows of ids for {rows} users")
        return Jagged(self._rank[_checked(values, self.model.n_items)], offsets)

    def _decode(self, keys: Tensor) -> TopK:
        high = (keys >> 32).int()
        scores = (high ^ ((high >> 31) & _SIGN)).view(torch.float32)
        none = scores == -torch.inf
        ranks = (_LOW - (keys & _LOW)).masked_fill(none, 0)
        items = self._order[ranks] if len(self._order) else ranks
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


def _inside(ranks: Jagged, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Flat positions, in the block of users top..bottom and ranks left..right, of jagged ranks."""
    begin, end = int(ranks.offsets[top]), int(ranks.offsets[bottom])
    values = ranks.values[begin:end]
    lengths = ranks.offsets[top + 1 : bottom + 1] - ranks.offsets[top:bottom]
    row = torch.repeat_interleave(lengths)
    chosen = (values >= left) & (values < right)
    return row[chosen] * (right - left) + values[chosen] - left


def _keys(scores: Tensor, ranks: Tensor) -> Tensor:
    bits = (scores + 0.0).view(torch.int32)  # adding 0 makes -0.0 equal to 0.0
    return (bits ^ ((bits >> 31) & _SIGN)).long() << 32 | (_LOW - ranks)


def _merge(best: Tensor, block: Tensor, left: int, k: int) -> Tensor:
    """The k largest keys of `best` `[B, k]` and of a block of scores whose first column has rank `left`."""
    ranks = torch.arange(left, left + block.shape[1], device=block.device)
    return torch.cat([best, _keys(block, ranks)], 1).topk(k, 1).values
