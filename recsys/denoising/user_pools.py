"""Batches of users, each with a pool of own positives to choose from and items to compare with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.features.noise import INJECTED
from recsys.features.pair_batch import InteractionBatch
from recsys.features.pair_batches import PairBatches
from recsys.features.training_pairs import Ids

if TYPE_CHECKING:
    from recsys.features.splits import Split


@dataclass(frozen=True)
class PoolBatch(InteractionBatch):
    """B users, each with k positives, the pool, and m items that the user did not have.

    Attributes:
        users: `[B]` int64; a user may stand in several rows.
        items: `[B, k]` int64, the pools, in random order.
        others: `[B, m]` int64, the negatives of each whole pool.
        epoch: `[]` int64, from 0.
        injected: `[B, k]` bool, which positives are noise that was injected. None: nobody knows.
    """

    others: Tensor
    epoch: Tensor
    injected: Tensor | None = None


class UserPools(PairBatches):
    """Users uniform over all that train, with pools uniform over what each had.

    An epoch has as many rows as there are positive pairs; they set its length and nothing else. Users count alike here,
    however active, and not as their pairs do, so that a model is to be compared with others that were trained on the
    same batches. With `size=1` a row is a user with one positive: the batches of plain training.

    Args:
        size: k, positives of a pool: distinct ones, or with repetition where the user had fewer.
        n: m, negatives of a pool.

    Raises:
        ValueError: `size` or `n` is not positive, or (in `setup`) a user had every item.

    Example:
        >>> from recsys.features.event_log import EventLog
        >>> from recsys.features.schema import Schema
        >>> from recsys.features.splits import GlobalTime
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"user_id": [0, 1] * 5, "item_id": range(10), "timestamp": range(10)})
        >>> pools = UserPools(size=3)
        >>> pools.setup(GlobalTime()(EventLog.from_frame(frame, Schema(name="shop"))), batch_size=4)
        >>> next(iter(pools)).items.shape
        torch.Size([4, 3])
    """

    def __init__(self, size: int = 5, n: int = 1) -> None:
        if size < 1 or n < 1:
            raise ValueError(f"UserPools: size and n must be positive, not {size} and {n}")
        self.size, self.n = size, n

    def setup(self, split: Split, batch_size: int, seed: int = 0) -> None:
        super().setup(split, batch_size, seed)
        full = np.flatnonzero(np.diff(self.pairs.offsets) >= self.pairs.n_items)
        if len(full):
            raise ValueError(
                f"UserPools: user {self.log.users.values[full[0] - 1]} had all {self.pairs.n_items} items, and has "
                "none to compare with; leave such users out of the log"
            )
        self._injected = np.asarray(self.log.columns[INJECTED]) if INJECTED in self.log.columns else None

    @property
    def n_rows(self) -> int:
        return len(self.pairs)

    def batch(self, rows: Ids, random: np.random.Generator) -> PoolBatch:
        active, offsets = self.pairs.active_users, self.pairs.offsets
        users = active[random.integers(0, len(active), len(rows))]
        lengths = offsets[users + 1] - offsets[users]
        places = offsets[users, None] + draw_distinct(lengths, self.size, random)
        others = self.pairs.draw_unlabeled(np.repeat(users[:, None], self.n, 1), random)
        injected = None if self._injected is None else self._injected[self.pairs.event[places]]
        return PoolBatch(
            users=torch.from_numpy(users),
            items=torch.from_numpy(self.pairs.items[places]),
            others=torch.from_numpy(others),
            epoch=torch.tensor(self.epoch - (self._next == 0)),  # by then it is the one of the batch that follows
            injected=None if injected is None else torch.from_numpy(injected),
        )


def draw_distinct(lengths: Ids, k: int, random: np.random.Generator) -> Ids:
    """Distinct numbers below each length, k of each, in random order; with repetition where the length is below k.

    Each is uniform over the numbers that are left, so that nothing is drawn twice; k^2 / 2 passes over the rows.

    Args:
        lengths: `[n]` int64, positive.
        k: how many.
        random: draws.

    Returns:
        `[n, k]` int64.

    Example:
        >>> sorted(draw_distinct(np.array([3]), 3, np.random.default_rng(0))[0].tolist())
        [0, 1, 2]
    """
    drawn = np.zeros((len(lengths), k), dtype=np.int64)
    taken = np.zeros((len(lengths), 0), dtype=np.int64)
    for place in range(k):
        number = random.integers(0, np.maximum(lengths - place, 1))  # among those left, then its place among all
        for column in range(place):
            number += number >= taken[:, column]
        drawn[:, place] = number
        taken = np.sort(np.column_stack([taken, number]), axis=1)
    short = np.flatnonzero(lengths < k)
    drawn[short] = random.integers(0, lengths[short, None], (len(short), k))
    return drawn
