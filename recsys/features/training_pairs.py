"""The distinct pairs of users and items of the training part: who had what, and who did not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.features.jagged import expand_ranges, offsets_of

if TYPE_CHECKING:
    from recsys.features.event_log import EventLog
    from recsys.features.splits import Split

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingPairs:
    """P positive pairs, by user and then by item, each once; all others are unlabeled.

    Attributes:
        n_users: users are 1..n_users.
        n_items: items are 1..n_items.
        items: `[P]` int64.
        offsets: `[n_users + 2]` int64; the items of user `u` are `items[offsets[u]:offsets[u + 1]]`.
        event: `[P]` int64, the first training event of each pair in the log.

    Example:
        >>> pairs = TrainingPairs(2, 3, np.array([1, 3, 2]), np.array([0, 0, 2, 3]), np.array([0, 1, 2]))
        >>> pairs.contains(np.array([1, 1, 2]), np.array([3, 2, 2])).tolist()
        [True, False, True]
    """

    n_users: int
    n_items: int
    items: Ids
    offsets: Ids
    event: Ids

    @classmethod
    def of(cls, split: Split) -> TrainingPairs:
        """The pairs of the training events of `split`; 16 bytes of memory a pair, and for a moment as many an event."""
        lengths = split.train_end - split.train_start
        user = np.repeat(np.arange(split.log.n_users + 1), lengths)
        return cls.of_events(split.log, user, expand_ranges(split.train_start, lengths))

    @classmethod
    def of_events(cls, log: EventLog, user: Ids, events: Ids) -> TrainingPairs:
        """The pairs of some events of a log.

        Args:
            log: whose events they are.
            user: `[n]` int64, the user of each.
            events: `[n]` int64, places in the log.
        """
        keys = user * (log.n_items + 1) + np.asarray(log.item_id)[events]
        distinct, first = np.unique(keys, return_index=True)
        users, items = np.divmod(distinct, log.n_items + 1)
        offsets = offsets_of(np.bincount(users, minlength=log.n_users + 1))
        return cls(log.n_users, log.n_items, items, offsets, events[first])

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def users(self) -> Ids:
        """`[P]` int64, the user of each pair."""
        return np.repeat(np.arange(self.n_users + 1), np.diff(self.offsets))

    @cached_property
    def active_users(self) -> Ids:
        """Users that have a pair, ascending."""
        return np.flatnonzero(np.diff(self.offsets))

    @cached_property
    def _keys(self) -> Ids:
        return self.users * (self.n_items + 1) + self.items

    def contains(self, users: Ids, items: Ids) -> NDArray[np.bool_]:
        """Which of the pairs `users` and `items` (any one shape, int64) are positive."""
        keys = users * (self.n_items + 1) + items
        place = np.searchsorted(self._keys, keys)
        return self._keys[np.minimum(place, len(self._keys) - 1)] == keys if len(self) else np.zeros(keys.shape, bool)

    def find(self, users: Ids, items: Ids) -> Ids:
        """`[m]` places of the positive pairs `users` and `items` `[m]` int64 among the P."""
        return np.searchsorted(self._keys, users * (self.n_items + 1) + items)

    def draw_unlabeled(self, users: Ids, random: np.random.Generator) -> Ids:
        """An item for each of `users` (any shape), uniform over those that the user did not have; same shape.

        Drawn again until none is positive, so that the draw is exactly uniform.

        Raises:
            ValueError: one of the users had every item.
        """
        full = np.diff(self.offsets)[users] >= self.n_items
        if full.any():
            raise ValueError(
                f"user {int(users[full].flat[0])} had all {self.n_items} items: there is no unlabeled item to draw; "
                "leave such users out of the log"
            )
        items = random.integers(1, self.n_items + 1, users.shape)
        wrong = np.flatnonzero(self.contains(users, items))
        while len(wrong):
            items.flat[wrong] = random.integers(1, self.n_items + 1, len(wrong))
            wrong = wrong[self.contains(users.flat[wrong], items.flat[wrong])]
        return items

    def draw_unlabeled_pairs(self, n: int, random: np.random.Generator) -> tuple[Ids, Ids]:
        """`n` users and their items, `[n]` each, uniform over all unlabeled pairs of active users, with repetition.

        Raises:
            ValueError: there is no unlabeled pair.
        """
        if self.n_unlabeled == 0:
            raise ValueError("every user had every item: there is no unlabeled pair to draw")
        users, items = self._draw_pairs(n, random)
        wrong = np.flatnonzero(self.contains(users, items))
        while len(wrong):
            users[wrong], items[wrong] = self._draw_pairs(len(wrong), random)
            wrong = wrong[self.contains(users[wrong], items[wrong])]
        return users, items

    @property
    def n_unlabeled(self) -> int:
        """Pairs of active users and items that are not positive."""
        return len(self.active_users) * self.n_items - len(self)

    def _draw_pairs(self, n: int, random: np.random.Generator) -> tuple[Ids, Ids]:
        active = self.active_users
        return active[random.integers(0, len(active), n)], random.integers(1, self.n_items + 1, n)
