"""Exact top-k of the whole catalogue: blocked, filtered, with ties broken by a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.blocks import BUDGET_BYTES, ItemBlocks
from recsys.retrieval.order import ItemOrder, Jagged, TopK
from recsys.retrieval.scan import ScannedBlocks
from recsys.retrieval.scan_tables import Scan


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
        scan: None: all scores are float32 matrix products. "auto", "bf16", "int8" or "fp32": a scan in that format
            rules most items out, and the others are scored by `pair_scores` (see `ScannedBlocks`). Lists and scores of
            all formats are the same bit for bit, and differ from those of None by the rounding of float32. "auto" is
            the fastest for the processor.

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
        scan: Scan | None = None,
    ) -> None:
        self.model = model
        self.budget = budget
        self._order = ItemOrder(model.n_items, allow, deny, tie_seed)
        places = range(len(self._order))
        self._scans = scan is not None
        self._blocks = ItemBlocks(self._order, places) if scan is None else ScannedBlocks(self._order, places, scan)

    @torch.no_grad()
    def prepare(self, device: torch.device) -> None:
        """Lays the items out, on the device of the model, in the columns of the blocks; a call does it when needed.

        Do it before several threads rank with one ranker.
        """
        if self._blocks.items is not None and self._blocks.items.device == device:
            return
        items = self._blocks.lay_out(device)
        if isinstance(self.model, VectorRecommender) and len(self._order):
            self._blocks.hold(self._vectors(self.model, items))

    def _vectors(self, model: VectorRecommender, items: Tensor) -> Tensor:
        # A scan takes the vectors block by block, for the memory. Without one they are computed at once, as they always
        # were: the size of a product decides the last bits of published metrics.
        if not self._scans:
            return model.item_vectors(items.flatten()).float().view(*items.shape, -1)
        first = model.item_vectors(items[0]).float()
        vectors = first.new_empty(*items.shape, first.shape[1])
        vectors[0] = first
        for block in range(1, len(items)):
            vectors[block] = model.item_vectors(items[block])
        return vectors

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
        self.prepare(source.device)
        removed = [self._order.places(ids, len(source)) for ids in (seen, deny) if ids is not None]
        allowed = None if allow is None else self._order.places(allow, len(source))
        return self._order.top(self._blocks.best(source, k, removed, allowed, self.budget))
