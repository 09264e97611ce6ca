"""Batches of user-item pairs: all of them, positives with drawn unlabeled ones, or triples."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.epochs import Epochs
from recsys.features.event_log import EventLog
from recsys.features.pair_batch import InteractionBatch, PairBatch, TripleBatch
from recsys.features.permutation import Permutation
from recsys.features.splits import Split
from recsys.features.training_pairs import Ids, TrainingPairs

MOST_PAIRS = 1 << 32
"""Of a pass over all pairs; one over more takes a day."""


class PairBatches(Epochs):
    """Endless supply of epochs over pairs of a split; one `iter` is one epoch.

    An epoch goes once through its rows in random order. The order, and whatever is drawn for a batch, are functions of
    the seed, the epoch and the place of the batch, so that `state_dict` is three numbers, however large the log.

    A subclass says how many rows an epoch has and makes a batch of some of them. `setup` comes before all else.

    Attributes:
        pairs: the positive pairs of the training part.
    """

    pairs: TrainingPairs

    def setup(self, split: Split, batch_size: int, seed: int = 0) -> None:
        """Fits it to a split.

        Args:
            split: whose training events are positive.
            batch_size: rows of a step.
            seed: of the order, and of what is drawn.

        Raises:
            ValueError: the sizes do not fit the split, or there is nothing to draw.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {batch_size}")
        self.log: EventLog = split.log
        self.pairs = TrainingPairs.of(split)
        self.batch_size, self.seed = batch_size, seed
        self.epoch, self._next = 0, 0

    def exposures(self, split: Split) -> TrainingPairs | None:
        """The pairs of the training part that were exposed, taken or not; None: it knows positives alone."""
        return None

    @property
    @abc.abstractmethod
    def n_rows(self) -> int:
        """Rows of an epoch."""

    @property
    def rows_per_step(self) -> int:
        """Rows that a batch is made of."""
        return self.batch_size

    @abc.abstractmethod
    def batch(self, rows: Ids, random: np.random.Generator) -> InteractionBatch:
        """The batch of the rows `rows` `[m]`, with what is drawn for it."""

    def __len__(self) -> int:
        return -(-self.n_rows // self.rows_per_step)

    def __iter__(self) -> Iterator[InteractionBatch]:
        epoch, size = self.epoch, self.rows_per_step
        order = Permutation(self.n_rows, [self.seed, epoch])
        for place in self.places():
            rows = order(np.arange(place * size, min((place + 1) * size, self.n_rows)))
            yield self.batch(rows, np.random.default_rng([self.seed, epoch, place + 1]))

    def logged_propensity(self, positives: Ids) -> Tensor | None:
        """`[m]` float32, as logged with the first event of the positive pairs at `positives` `[m]`; None: never."""
        if "propensity" not in self.log.columns:
            return None
        return _float(self.log.columns["propensity"][self.pairs.event[positives]])


class AllPairs(PairBatches):
    """Every pair of an active user and an item once an epoch: a batch is a uniform sample of all, unlabeled or not.

    Users without training events have no pairs. No order of all pairs is held.

    Raises:
        ValueError: (in `setup`) there are more than 2^32 pairs.
    """

    def setup(self, split: Split, batch_size: int, seed: int = 0) -> None:
        super().setup(split, batch_size, seed)
        if self.n_rows > MOST_PAIRS:
            raise ValueError(
                f"AllPairs: {len(self.pairs.active_users):,} users and {self.pairs.n_items:,} items make "
                f"{self.n_rows:,} pairs, more than {MOST_PAIRS:,}; use PositivesAndUnlabeled, which draws some of them"
            )

    @property
    def n_rows(self) -> int:
        return len(self.pairs.active_users) * self.pairs.n_items

    def batch(self, rows: Ids, random: np.random.Generator) -> PairBatch:
        place, item = np.divmod(rows, self.pairs.n_items)
        users, items = self.pairs.active_users[place], item + 1
        label = self.pairs.contains(users, items)
        logged = self.logged_propensity(self.pairs.find(users[label], items[label]))
        return PairBatch(
            users=torch.from_numpy(users),
            items=torch.from_numpy(items),
            label=_float(label),
            propensity=None
            if logged is None
            else torch.ones(len(rows)).masked_scatter_(torch.from_numpy(label), logged),
        )


class PositivesAndUnlabeled(PairBatches):
    """All positives once an epoch, each with `n` unlabeled pairs, uniform over all that there are.

    An unlabeled pair weighs (unlabeled pairs / drawn ones), so that a weighted mean estimates the one over all pairs.
    Without it positives would count (1 + n)^-1 of everything, whatever their share.

    Args:
        n: unlabeled pairs for each positive; a step of `batch_size` pairs has `batch_size / (1 + n)` positives.

    Raises:
        ValueError: `n` is not positive, or (in `setup`) there is no unlabeled pair.
    """

    def __init__(self, n: int = 10) -> None:
        self.n = _positive("PositivesAndUnlabeled", n)

    def setup(self, split: Split, batch_size: int, seed: int = 0) -> None:
        super().setup(split, batch_size, seed)
        if self.pairs.n_unlabeled == 0:
            raise ValueError("PositivesAndUnlabeled: every user had every item, there is no unlabeled pair to draw")

    @property
    def n_rows(self) -> int:
        return len(self.pairs)

    @property
    def rows_per_step(self) -> int:
        return max(1, self.batch_size // (1 + self.n))

    def batch(self, rows: Ids, random: np.random.Generator) -> PairBatch:
        users, items = self.pairs.draw_unlabeled_pairs(self.n * len(rows), random)
        drawn = len(items)
        label = torch.cat([torch.ones(len(rows)), torch.zeros(drawn)])
        each = self.pairs.n_unlabeled / (self.n * len(self.pairs))
        logged = self.logged_propensity(rows)
        return PairBatch(
            users=torch.from_numpy(np.concatenate([self.pairs.users[rows], users])),
            items=torch.from_numpy(np.concatenate([self.pairs.items[rows], items])),
            label=label,
            weight=torch.cat([torch.ones(len(rows)), torch.full((drawn,), each)]),
            propensity=None if logged is None else torch.cat([logged, torch.ones(drawn)]),
        )


class Triples(PairBatches):
    """Every positive pair `n` times an epoch, each time with another item that is drawn anew.

    Args:
        n: other items of each positive.
        positives: whether the other item may be one that the user had, as UBPR weighs it; False draws unlabeled items
            alone, as BPR compares with them.

    Raises:
        ValueError: `n` is not positive, or (in `setup`) there is no other item.
    """

    def __init__(self, n: int = 10, positives: bool = False) -> None:
        self.n, self.positives = _positive("Triples", n), positives

    def setup(self, split: Split, batch_size: int, seed: int = 0) -> None:
        super().setup(split, batch_size, seed)
        if self.pairs.n_items < 2:
            raise ValueError("Triples: a catalogue of one item has no other to compare with")
        if not self.positives:  # those who had everything have nothing to compare with
            full = np.diff(self.pairs.offsets) >= self.pairs.n_items
            self._compared = np.flatnonzero(~full[self.pairs.users])
            if not len(self._compared):
                raise ValueError("Triples: every user had every item, there is no unlabeled item to compare with")

    @property
    def n_rows(self) -> int:
        return self.n * (len(self.pairs) if self.positives else len(self._compared))

    def batch(self, rows: Ids, random: np.random.Generator) -> TripleBatch:
        rows = rows // self.n if self.positives else self._compared[rows // self.n]
        users, items = self.pairs.users[rows], self.pairs.items[rows]
        if self.positives:
            others = random.integers(1, self.pairs.n_items, len(rows))
            others += others >= items  # uniform over all items but the one
            label = self.pairs.contains(users, others)
        else:
            others, label = self.pairs.draw_unlabeled(users, random), np.zeros(len(rows), dtype=bool)
        return TripleBatch(
            users=torch.from_numpy(users),
            items=torch.from_numpy(items),
            others=torch.from_numpy(others),
            other_label=_float(label),
            propensity=self.logged_propensity(rows),
        )


def _positive(name: str, n: int) -> int:
    if n < 1:
        raise ValueError(f"{name}: n must be positive, not {n}")
    return n


def _float(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
