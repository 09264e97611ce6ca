"""The planted structure of the large log: categories, their items, and users who stay within a few of them.

Users are drawn independently of each other, each from random numbers of its own (Philox, a generator that can start
anywhere), so that the log does not depend on how many are drawn at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DAY = 86_400
FIRST_DAY = 1_672_531_200
"""2023-01-01 UTC."""
INTERESTS = 3
"""Categories that a user comes back to: home, and two more."""
LEAST, MOST = 2, 20
"""Events of a user beside those with its own items."""
PER_USER, PER_EVENT = 4, 5
"""Random numbers of a user, and of each of its events."""


@dataclass(frozen=True)
class Shape:
    """Sizes and strengths of a log.

    Attributes:
        users: number of users.
        items: number of items; all of them occur.
        categories: an item is in one of them.
        seed: of everything that is drawn.
        category_exponent: the c-th largest category has items in proportion to c to the power of minus this.
        item_exponent: likewise of the popularity of the r-th item of a category; any number but 1.
        stays: probability that an event is in the category of the one before without another being drawn.
        drawn: events of a user on average, beside those with its own items.
        gap_days: between two events of a user, on average.
        days: within which users begin.
    """

    users: int = 5_000_000
    items: int = 10_000_000
    categories: int = 20_000
    seed: int = 0
    category_exponent: float = 0.8
    item_exponent: float = 1.1
    stays: float = 0.8
    drawn: float = 7.0
    gap_days: float = 10.0
    days: int = 365

    def __post_init__(self) -> None:
        if self.users < 1 or not 1 <= self.categories <= self.items:
            raise ValueError("give at least one user, one category, and as many items as categories")


class Events(NamedTuple):
    """Events of some users, one after the other.

    Attributes:
        user: `[E]` int64, 1..users, ascending.
        item: `[E]` int64, 1..items; no user has one twice.
        timestamp: `[E]` int64 Unix seconds, ascending within a user.
    """

    user: Ints
    item: Ints
    timestamp: Ints


class Sequences(NamedTuple):
    """What n users do, each in a row of m steps; an item may stand in a row several times.

    Attributes:
        taken: `[n, m]` bool, whether there is an event; it is true up to some step.
        place: `[n, m]` int64, the place of its item.
        timestamp: `[n, m]` int64 Unix seconds.
    """

    taken: NDArray[np.bool_]
    place: Ints
    timestamp: Ints


class World:
    """Categories, items, and what users draw from.

    Items stand in places, category by category, the most popular of each first. Every user has `items / users` places
    of its own, neighbours in most cases of one category, the user's home. It takes these items in any case: no item is
    missing in the log, and homes are as frequent as categories are large.

    Args:
        shape: of the log.

    Attributes:
        first: `[categories + 1]` int64, first place of each category.
        item_at: `[items]` int32 item id at each place; ids are shuffled, and tell nothing.
    """

    def __init__(self, shape: Shape):
        self.shape = shape
        weight = np.arange(1, shape.categories + 1, dtype=np.float64) ** -shape.category_exponent
        sizes = 1 + np.floor((shape.items - shape.categories) * (weight / weight.sum())).astype(np.int64)
        sizes[: shape.items - sizes.sum()] += 1  # what rounding left, less than one item a category
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        shuffle = np.random.default_rng([shape.seed, 0]).permutation
        self.item_at = shuffle(np.arange(1, shape.items + 1, dtype=np.int32))
        self._slot_of = shuffle(np.arange(shape.users, dtype=np.int32))
        self.steps = -(-shape.items // shape.users) + MOST

    def category_of(self, place: Ints) -> Ints:
        """The category of each place, 0..categories - 1."""
        return np.searchsorted(self.first, place, side="right") - 1

    def categories(self) -> NDArray[np.int32]:
        """`[items]` the category of each item, that of item 1 first."""
        of = np.empty(self.shape.items, dtype=np.int32)
        of[self.item_at - 1] = np.repeat(np.arange(self.shape.categories, dtype=np.int32), np.diff(self.first))
        return of

    def events(self, begin: int, end: int) -> Events:
        """Events of the users `begin + 1 .. end`; of an item that is taken again the first time counts."""
        drawn = self.sequences(begin, end)
        row, step = np.nonzero(drawn.taken)
        place = drawn.place[row, step]
        _, kept = np.unique(row * self.shape.items + place, return_index=True)
        kept.sort()
        row, step, place = row[kept], step[kept], place[kept]
        return Events(begin + 1 + row, self.item_at[place].astype(np.int64), drawn.timestamp[row, step])

    def sequences(self, begin: int, end: int) -> Sequences:
        """What the users `begin + 1 .. end` do; about 300 bytes of memory for each of their steps."""
        shape, steps = self.shape, np.arange(self.steps)
        user, (moves, goes, picks, owns, waits) = self._random(begin, end)
        slot = self._slot_of[begin:end].astype(np.int64)
        first_own, end_own = (shape.items * at // shape.users for at in (slot, slot + 1))
        own = (end_own - first_own)[:, None]
        # A geometric number of events, from LEAST on.
        more = np.floor(np.log1p(-user[:, :1]) / np.log1p(-1 / (shape.drawn - LEAST + 1))).astype(np.int64)
        taken = steps < own + np.minimum(LEAST + more, MOST)

        drawn = [(user[:, place] * shape.items).astype(np.int64) for place in range(PER_USER - INTERESTS + 1, PER_USER)]
        interests = np.stack([self.category_of(place) for place in (first_own, *drawn)], axis=1)
        # The category of the last event stays until another interest is drawn; the first events are at home.
        moved = np.where((moves >= shape.stays) & (steps >= own), steps, 0)
        since = np.maximum.accumulate(moved, axis=1)
        goes = np.take_along_axis((goes * INTERESTS).astype(np.int64), since, axis=1)
        interest = np.where(since > 0, goes, 0)
        place = self._picked(np.take_along_axis(interests, interest, axis=1), picks)
        # The user's own items are taken at some of the steps at home.
        order = np.where(taken & (interest == 0), owns, np.inf).argsort(axis=1).argsort(axis=1)
        place = np.where(order < own, first_own[:, None] + order, place)

        start = FIRST_DAY + user[:, 1:2] * shape.days * DAY
        gaps = -np.log1p(-waits) * shape.gap_days * DAY
        return Sequences(taken, place, (start + gaps.cumsum(axis=1)).astype(np.int64))

    def _picked(self, category: Ints, picks: Floats) -> Ints:
        """Places within categories: ranks by a power law that ends with the category (inverse distribution)."""
        size = (self.first[1:] - self.first[:-1])[category]
        power = 1 - self.shape.item_exponent
        rank = (1 + picks * ((size + 1.0) ** power - 1)) ** (1 / power)
        return self.first[category] + np.minimum(rank.astype(np.int64), size) - 1

    def _random(self, begin: int, end: int) -> tuple[Floats, tuple[Floats, ...]]:
        """Uniform numbers of users, `[n, PER_USER]`, and of their events, PER_EVENT times `[n, steps]`."""
        wanted = PER_USER + PER_EVENT * self.steps
        counts = -(-wanted // 4)  # of a user: Philox makes four numbers a count
        philox = np.random.Philox(key=self.shape.seed, counter=begin * counts)
        numbers = np.random.Generator(philox).random((end - begin, 4 * counts))
        of_events = numbers[:, PER_USER:wanted].reshape(end - begin, PER_EVENT, self.steps)
        return numbers[:, :PER_USER], tuple(of_events.transpose(1, 0, 2))
