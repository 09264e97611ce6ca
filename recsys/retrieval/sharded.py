"""Exact top-k of a catalogue whose tables lie on several ranks: each ranks a slice for the users of all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.types import ShardedModule

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.blocks import BUDGET_BYTES, ItemBlocks
from recsys.retrieval.exchange import lists_of_all, numbers, rows_of_all, to_owners
from recsys.retrieval.order import ItemOrder, Jagged, TopK
from recsys.retrieval.selection import largest


def is_sharded(model: Recommender) -> bool:
    """Whether the ranks of a process group hold the tables of a model together, and so must ask it together."""
    return (
        dist.is_initialized()
        and isinstance(model, nn.Module)
        and any(isinstance(part, ShardedModule) for part in model.modules())
    )


class ShardedRanker:
    """A `Ranker` of which every rank has a part; each brings its own users and gets their lists.

    The slice of a rank is a run of the order that decides among equal scores. A rank computes the vectors of its slice,
    scores it for the users of all ranks, and sends each user's best to the rank that the user came from, where they are
    merged. Lists are those of a `Ranker` over the same weights; scores agree within float32 rounding, which depends on
    how many items are multiplied at once.

    Looking rows of sharded tables up is collective. All ranks make their ranker with the same arguments and call it
    equally often, with the same k and the same kinds of lists; a rank without users calls it with an empty batch. They
    do it from one thread each. An error on one rank leaves the others waiting for it: the launcher must end them.

    Memory of a rank: `n_items / ranks * d * 4` bytes of vectors and one block of at most 16,384 items that is being
    computed; 8 bytes an item of the slice and 16 an item of the catalogue, for the order; `budget`; and user vectors,
    filters and lists of the users that all ranks bring to one call.

    Args:
        model: whose vectors are asked for; needs not be sharded itself.
        allow: `[A]` int64, the only ids anybody may get; None: all.
        deny: `[D]` int64, ids nobody may get; None: none.
        tie_seed: seed of the order among equal scores; None: lower id first.
        budget: bytes of scores held at a time.

    Raises:
        ValueError: an id lies outside 0..n_items, or the model has no item vectors.
    """

    def __init__(
        self,
        model: Recommender,
        *,
        allow: Tensor | None = None,
        deny: Tensor | None = None,
        tie_seed: int | None = 0,
        budget: int = BUDGET_BYTES,
    ) -> None:
        if not isinstance(model, VectorRecommender):
            raise ValueError(
                f"{type(model).__name__} has sharded tables and no item vectors: only a VectorRecommender is ranked "
                "across ranks; rank with a model that was consolidated in one process"
            )
        self.model = model
        self.budget = budget
        self._order = ItemOrder(model.n_items, allow, deny, tie_seed)
        self._blocks = slice_of(self._order, dist.get_rank(), dist.get_world_size())

    @torch.no_grad()
    def prepare(self, device: torch.device) -> None:
        """Computes the item vectors of this rank's slice, block by block; a call does it when needed."""
        if self._blocks.items is not None and self._blocks.items.device == device:
            return
        items = self._blocks.lay_out(device)
        for block, ids in enumerate(items if len(self._order) else ()):
            vectors = self.model.item_vectors(ids)
            if self._blocks.vectors is None or not block:
                self._blocks.vectors = torch.empty(*items.shape, vectors.shape[1], device=device)
            self._blocks.vectors[block] = vectors

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
        """Ranks the users of this rank's batch, 0 or more; arguments and errors as in `recommend`, lists per user."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        source = self.model.user_vectors(batch).float()
        self.prepare(source.device)
        users = numbers(len(source), source.device)
        removed = [self._of_all(ids, len(source)) for ids in (seen, deny) if ids is not None]
        allowed = None if allow is None else self._of_all(allow, len(source))
        best = self._blocks.best(rows_of_all(source), k, removed, allowed, self.budget)
        return self._order.top(merged(to_owners(best, users), k))

    def _of_all(self, ids: Jagged | tuple[Tensor, Tensor], rows: int) -> Jagged:
        return lists_of_all(self._order.places(ids, rows))


def slice_of(order: ItemOrder, rank: int, ranks: int) -> ItemBlocks:
    """The part of an order that a rank has: of equal size on all, or one place longer.

    Equal room gives all slices equally many blocks of one width, so that ranks look items up in step.
    """
    n = len(order)
    return ItemBlocks(order, range(rank * n // ranks, (rank + 1) * n // ranks), room=-(-n // ranks))


def merged(keys: Tensor, k: int) -> Tensor:
    """The k best keys of each user, `[B, k]`, of those that R slices have found, `[R, B, k]`."""
    return largest(keys.transpose(0, 1).flatten(1), k)
