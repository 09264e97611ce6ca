"""The set of items behind each history, as the models that ignore order see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.jagged import expand_ranges, offsets_of

if TYPE_CHECKING:
    from recsys.features.splits import Split


def training_events(split: Split) -> np.ndarray:
    """Indices into the log of the training events of all users, `[E_train]` int64, ascending."""
    return expand_ranges(split.train_start, split.train_end - split.train_start)


def training_matrix(split: Split, counts: bool = False) -> csr_matrix:
    """Users by items, `[n_users, n_items]` float32; row `u - 1` and column `i - 1` stand for user u and item i.

    Args:
        split: the training events come from here.
        counts: keep how often a user met an item; otherwise every entry is 1.
    """
    log = split.log
    items = np.asarray(log.item_id)[training_events(split)] - 1
    length = (split.train_end - split.train_start)[1 : log.n_users + 1]
    shape = log.n_users, log.n_items
    matrix = csr_matrix((np.ones(len(items), np.float32), items, offsets_of(length)), shape=shape)
    matrix.sum_duplicates()
    if not counts:
        matrix.data[:] = 1
    return matrix


class Interactions(NamedTuple):
    """P distinct (user, item) pairs of a batch, ordered by row and item.

    Attributes:
        row: `[P]` int64, row of the batch.
        item: `[P]` int64, 1..n_items.
        count: `[P]` int64, events of the pair.
    """

    row: Tensor
    item: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count


def interactions(batch: SequenceBatch, known: Tensor) -> Interactions:
    """The distinct items of every history.

    Args:
        batch: B histories.
        known: `[n_items + 1]` bool; events of other items (and padding) are left out.
    """
    lengths, item = batch.lengths, batch.item_id
    row = torch.repeat_interleave(torch.arange(len(batch), device=item.device), lengths)
    keep = known[item] & (item > 0)
    pair, count = torch.unique(row[keep] * known.numel() + item[keep], return_counts=True)
    return Interactions(pair // known.numel(), pair % known.numel(), count)
