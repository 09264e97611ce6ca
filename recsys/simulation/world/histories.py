"""What users have consumed so far, which grows as they consume more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog


@dataclass(frozen=True)
class Histories:
    """The events of all users, oldest first. 16 bytes an event.

    Attributes:
        items: `[T]` int64 item ids, users one after the other.
        times: `[T]` int64, Unix seconds.
        offsets: `[n_users + 2]` int64, where the events of users 0..n_users begin and end; user 0 has none.
    """

    items: Tensor
    times: Tensor
    offsets: Tensor

    @classmethod
    def empty(cls, n_users: int) -> Histories:
        """Of users who have consumed nothing."""
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls(nothing, nothing, torch.zeros(n_users + 2, dtype=torch.int64))

    @property
    def lengths(self) -> Tensor:
        """`[n_users + 1]` int64 events of each user."""
        return self.offsets.diff()

    @classmethod
    def of_log(cls, log: EventLog) -> Histories:
        """All events of a log."""
        items, times = (torch.from_numpy(column.astype(np.int64)) for column in (log.item_id, log.timestamp))
        return cls(items, times, torch.from_numpy(log.offsets.astype(np.int64)))

    def of(self, users: Tensor) -> SequenceBatch:
        """The histories of users `[n]` int64, as models read them."""
        start, lengths = self.offsets[users], self.lengths[users]
        first = lengths.cumsum(0) - lengths
        at = torch.arange(int(lengths.sum())) + torch.repeat_interleave(start - first, lengths)
        return SequenceBatch.build(users, lengths, self.items[at], self.times[at])

    def grown(self, users: Tensor, items: Tensor, time: int) -> Histories:
        """With the events of a day at the end of the histories.

        Args:
            users: `[n]` int64, who consumed; the order of a user's events is kept.
            items: `[n]` int64, what.
            time: of all of them, Unix seconds, not before the events there are.
        """
        order = torch.argsort(users, stable=True)
        users, items = users[order], items[order]
        more = torch.bincount(users, minlength=len(self.offsets) - 1)
        offsets = self.offsets + torch.cat([more.new_zeros(1), more.cumsum(0)])
        old = torch.arange(len(self.items)) + torch.repeat_interleave(offsets[:-1] - self.offsets[:-1], self.lengths)
        first = (offsets[1:] - more)[users]  # where the new events of the user begin
        new = first + torch.arange(len(users)) - (more.cumsum(0) - more)[users]
        grown = self.items.new_empty(len(old) + len(new))
        times = torch.full_like(grown, time)
        grown[old], grown[new], times[old] = self.items, items, self.times
        return Histories(grown, times, offsets)


def newest(batch: SequenceBatch, most: int) -> SequenceBatch:
    """The newest `most` events of each history.

    Example:
        >>> asked = torch.tensor([1, 2])
        >>> batch = SequenceBatch.build(asked, torch.tensor([3, 1]), torch.tensor([4, 5, 6, 7]), torch.arange(4))
        >>> newest(batch, 2).item_id.tolist()
        [5, 6, 7]
    """
    ends = torch.repeat_interleave(batch.offsets[1:], batch.lengths)
    kept = ends - torch.arange(len(ends)) <= most
    return SequenceBatch.build(batch.user_id, batch.lengths.clamp(max=most), batch.item_id[kept], batch.timestamp[kept])
