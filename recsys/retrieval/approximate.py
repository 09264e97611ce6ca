"""Top-k by an index: most likely the best items, with what it misses measured and what it lacks recorded."""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import VectorRecommender
from recsys.retrieval.item_index import ItemIndex
from recsys.retrieval.order import ItemOrder, Jagged, TopK
from recsys.retrieval.scan_tables import pair_scores
from recsys.retrieval.selection import NOTHING, keys_of, merge
from recsys.retrieval.topk import Ranker

_PAIRS = 2**17
"""Pairs of a user and an item that are scored at a time."""


class RecallError(ValueError):
    """An index misses more of the best items than it may."""


class Recall(NamedTuple):
    """The share of the exactly best items that were found, with an interval that holds for any distribution.

    Attributes:
        value: mean over users.
        low: lower end of the 95 % interval.
        high: upper end.
        users: that had something to find.
    """

    value: float
    low: float
    high: float
    users: int


class ApproximateRanker:
    """Ranks as a `Ranker` does, among items that an index names.

    An index knows no lists: more items are asked of it than are wanted, those that a user must not get are taken out,
    and users who are left with too few are asked for again with twice as many, up to `most`. Who has allowed items gets
    the best of these, without the index. Scores are those of `pair_scores`, and equal ones are ordered as by a
    `Ranker`, so that the only difference is in what the index misses.

    Args:
        model: whose items are in the index.
        index: of `model.item_vectors()`.
        allow: `[A]` int64, the only ids anybody may get; None: all.
        deny: `[D]` int64, ids nobody may get; None: none.
        tie_seed: seed of the order among equal scores; None: lower id first.
        most: items asked of the index for a user at most.

    Attributes:
        short: users so far who got fewer than k items although the index may have had more.

    Raises:
        ValueError: the index is of another catalogue, or an id lies outside 0..n_items.
    """

    def __init__(
        self,
        model: VectorRecommender,
        index: ItemIndex,
        *,
        allow: Tensor | None = None,
        deny: Tensor | None = None,
        tie_seed: int | None = 0,
        most: int = 10_000,
    ) -> None:
        if index.n_items != model.n_items:
            raise ValueError(
                f"the index holds {index.n_items} items and the model knows {model.n_items}: build the index again"
            )
        self.model, self.index, self.most = model, index, most
        self.short = 0
        self._order = ItemOrder(model.n_items, allow, deny, tie_seed)
        self._lock = threading.Lock()

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
        """Ranks the users of a batch; arguments and errors as in `recommend`, lists per user only.

        Raises:
            ValueError: also where the index has vectors of other dimensions than the model.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        users = self.model.user_vectors(batch).float().cpu()
        if users.shape[1] != self.index.d:
            raise ValueError(
                f"the index has {self.index.d} dimensions and the model {users.shape[1]}: build the index again"
            )
        rows, n_items = len(users), self.model.n_items
        given = [_pairs(ids, rows, self._order) for ids in (seen, deny) if ids is not None]
        removed = torch.cat([torch.empty(0, dtype=torch.int64), *given]).unique()
        keys = torch.full((rows, k), NOTHING, dtype=torch.int64)
        if allow is not None:
            pairs = _pairs(allow, rows, self._order).unique()
            self._keep(users, pairs[~torch.isin(pairs, removed)], keys)
            return self._order.top(keys)
        longest = int(torch.bincount(removed // (n_items + 1), minlength=1).max()) if len(removed) else 0
        top = min(self.most, n_items)
        n, left = min(self.index.kind.refine * (k + longest), top), torch.arange(rows)
        while len(left):
            for part in left.split(max(1, _PAIRS // n)):
                pairs = (part[:, None] * (n_items + 1) + self.index.search(users[part], n)).flatten()
                keys[part] = NOTHING
                self._keep(users, pairs[~torch.isin(pairs, removed)], keys)
            left = left[keys[left, -1] == NOTHING]
            if n == top:
                break
            n = min(2 * n, top)
        if n < n_items or not self.index.kind.complete:
            with self._lock:
                self.short += len(left)
        return self._order.top(keys)

    def _keep(self, users: Tensor, pairs: Tensor, keys: Tensor) -> None:
        """Puts the best of pairs, each once, into the keys `[B, k]` of their rows, which hold nothing yet."""
        row, item = pairs // (self.model.n_items + 1), pairs % (self.model.n_items + 1)
        place = self._order.places(Jagged(item, torch.tensor([0, len(item)])), 1).values
        row, item, place = row[place >= 0], item[place >= 0], place[place >= 0]
        if not len(row):
            return
        order = row.argsort(stable=True)
        for part in order.split(_PAIRS):
            distinct, at = item[part].unique(return_inverse=True)
            vectors = self.model.item_vectors(distinct).float().cpu()
            scores = pair_scores(users[row[part]], vectors[at])
            if not torch.isfinite(scores).all():
                raise ValueError("the model gave scores that are NaN or infinite")
            merge(keys, row[part], keys_of(scores, place[part]))


def _pairs(ids: Jagged | tuple[Tensor, Tensor], rows: int, order: ItemOrder) -> Tensor:
    """`row * (n_items + 1) + id` of jagged ids."""
    order.places(ids, rows)  # which checks them
    values, offsets = (part.cpu() for part in ids)
    return torch.repeat_interleave(offsets.diff()) * (order.n_items + 1) + values.long()


def measured_recall(exact: TopK, found: TopK) -> Recall:
    """The recall of lists against the exact ones of the same users.

    The interval is that of the empirical Bernstein inequality (Maurer and Pontil, 2009): it holds for any number of
    users, and has a width where all of them have the same recall, too.

    Args:
        exact: `[B, k]` from a `Ranker`.
        found: `[B, k]`.

    Raises:
        ValueError: fewer than two users have something to find.

    Example:
        >>> lists = [torch.tensor([[1, 2], [3, 4], [5, 0]]), torch.tensor([[2, 1], [3, 9], [5, 0]])]
        >>> recall = measured_recall(*(TopK(items, torch.zeros(3, 2)) for items in lists))
        >>> round(recall.value, 3), recall.users
        (0.833, 3)
    """
    wanted = exact.items.cpu()
    there = wanted != 0
    some = there.any(1)
    n = int(some.sum())
    if n < 2:
        raise ValueError(f"recall needs two users at least who have something to find, not {n}")
    hits = (wanted[:, :, None] == found.items.cpu()[:, None, :]).any(2) & there
    recall = (hits.sum(1)[some] / there.sum(1)[some]).double()
    value, tail = float(recall.mean()), math.log(4 / 0.05)
    width = math.sqrt(2 * float(recall.var()) * tail / n) + 7 * tail / (3 * (n - 1))
    return Recall(value, max(0.0, value - width), min(1.0, value + width), n)


def check_recall(
    approximate: ApproximateRanker,
    exact: Ranker,
    batch: SequenceBatch,
    k: int,
    least: float,
    *,
    seen: Jagged | tuple[Tensor, Tensor] | None = None,
    deny: Jagged | tuple[Tensor, Tensor] | None = None,
) -> Recall:
    """Measures what an index misses for a sample of users, and refuses it where that is too much.

    Args:
        approximate: to be judged.
        exact: of the same model, with the same shared lists and `tie_seed`.
        batch: the sample.
        k: length of the lists.
        least: recall that is enough, 0..1.
        seen: as in `recommend`.
        deny: as in `recommend`.

    Raises:
        RecallError: the recall is below `least`.
        ValueError: fewer than two users have something to find.
    """
    lists = {"seen": seen, "deny": deny}
    recall = measured_recall(exact(batch, k, **lists), approximate(batch, k, **lists))
    if recall.value < least:
        raise RecallError(
            f"recall@{k} of the index {approximate.index.kind} is {recall.value:.3f} (95 % interval {recall.low:.3f} "
            f"to {recall.high:.3f}, {recall.users} users), below {least:g}: let it look at more (`refine`, "
            "`probes`, `codes`, `search_width`), or rank exactly with `Ranker`"
        )
    return recall
