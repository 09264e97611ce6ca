"""Slates: items that were shown together at a request, in positions, and which of them were clicked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.event_log import EventLog
from recsys.features.jagged import expand_ranges
from recsys.features.queries import Queries
from recsys.features.splits import Split

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SlateBatch:
    """S slates of at most L positions, with what was known of the users when they asked.

    Attributes:
        histories: of S users, the events before each request; with the time of the request, and its query if any.
        item: `[S, L]` int64 item ids in shown order, 0 where a slate has none. Every slate has a first item.
        click: `[S, L]` float32, 1 where the item was clicked.
        context: `[S]` int64 from 0, which of a few situations the slate was shown in. None: one.
    """

    histories: SequenceBatch
    item: Tensor
    click: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return self.item.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SlateBatch:
        """The same slates on another device."""
        return replace(self, **{name: part.to(device, non_blocking=non_blocking) for name, part in self._parts()})

    def pin_memory(self) -> SlateBatch:
        """The same slates in page-locked memory."""
        return replace(self, **{name: part.pin_memory() for name, part in self._parts()})

    def _parts(self) -> list[tuple[str, Any]]:
        return [(f.name, part) for f in fields(self) if (part := getattr(self, f.name)) is not None]


@dataclass(frozen=True)
class Slates:
    """N slates of at most L positions beside an event log, which has the histories of their users.

    What was shown and not clicked stands here alone: it is no event, so that it is in no history and never a target of
    retrieval. What was clicked is an event of the log as well, after its request.

    Attributes:
        log: the event log.
        user: `[N]` int64 user ids; 0 for a user without events.
        timestamp: `[N]` int64 Unix seconds of the request.
        item: `[N, L]` int32 item ids in shown order, 0 where a slate has none.
        click: `[N, L]` uint8 of 0 and 1.
        query: `[N]` int64 rows of `queries`, 0 for none.
        queries: what was asked for; None: nobody searched.
        context: `[N]` int64 from 0; None: one context.
        facts: what was left out, counted.
    """

    log: EventLog
    user: Ids
    timestamp: Ids
    item: NDArray[np.int32]
    click: NDArray[np.uint8]
    query: Ids
    queries: Queries | None = None
    context: Ids | None = None
    facts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    def where(self, keep: NDArray[np.bool_], **facts: int) -> Slates:
        """The slates at which `keep` `[N]` is true; `facts` say what the others were."""
        columns = {
            name: value[keep]
            for name in ("user", "timestamp", "item", "click", "query", "context")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **columns, facts=self.facts | facts)

    def clicked(self) -> Slates:
        """The slates with a click."""
        keep = self.click.max(axis=1) > 0
        return self.where(keep, without_click=int((~keep).sum()))

    def trainable(self, split: Split) -> Slates:
        """The slates that tell nothing of what validates or tests.

        They were shown up to the time of the last training event, before the user's first event that is held out, with
        no click on an item that is held out for this user. Left out is also who has neither history nor query: nobody
        asks ranking for him.

        Args:
            split: of the same log.
        """
        log, user = self.log, self.user
        trained = split.train_end > split.train_start
        last = log.timestamp[split.train_end[trained] - 1].max()
        held = split.train_end < log.offsets[1:]  # by user id; row 0, without events, is not
        first = np.full(len(held), np.iinfo(np.int64).max)
        first[held] = log.timestamp[split.train_end[held]]
        early = (self.timestamp <= last) & (self.timestamp < first[user])
        counts = log.offsets[1:] - split.train_end
        at = expand_ranges(split.train_end, counts)
        pairs = np.unique(np.repeat(np.arange(len(counts)), counts) * (log.n_items + 1) + log.item_id[at])
        row, place = np.nonzero(self.click)  # few of what was shown
        told = np.zeros(len(self), dtype=bool)
        told[row[np.isin(user[row] * (log.n_items + 1) + self.item[row, place], pairs)]] = True
        asking = (events_before(log, user, self.timestamp) > log.offsets[user]) | (self.query > 0)
        return self.where(
            early & ~told & asking,
            late=int((~early).sum()),
            click_held_out=int((early & told).sum()),
            unknown_user=int((early & ~told & ~asking).sum()),
        )

    def batch(self, rows: Ids, max_length: int | None = None) -> SlateBatch:
        """The slates `rows` `[S]`, each with the last `max_length` events before its request; None: all of them."""
        user, time, item = self.user[rows], self.timestamp[rows], self.item[rows]
        known = histories(self.log, user, self.log.offsets[user], events_before(self.log, user, time), max_length)
        longest = int(np.flatnonzero(item.max(axis=0)).max()) + 1
        return SlateBatch(
            histories=replace(known, request_timestamp=torch.from_numpy(time), **self._asked(known, self.query[rows])),
            item=torch.from_numpy(item[:, :longest].astype(np.int64)),
            click=torch.from_numpy(self.click[rows, :longest].astype(np.float32)),
            context=None if self.context is None else torch.from_numpy(self.context[rows]),
        )

    def _asked(self, known: SequenceBatch, query: Ids) -> dict[str, Any]:
        """The fields of a batch that say what is asked for: the slates' queries stand after those of the histories."""
        if self.queries is None or known.queries is None:
            return {}
        distinct, place = np.unique(query[query > 0], return_inverse=True)
        request = np.zeros_like(query)
        request[query > 0] = len(known.queries) + place
        queries = known.queries.followed_by(self.queries.rows(distinct))
        return {"queries": queries, "request_query": torch.from_numpy(request)}


def events_before(log: EventLog, user: Ids, time: Ids) -> Ids:
    """Where the events of users before a moment end, by bisection of all users at once.

    Args:
        log: the event log.
        user: `[n]` user ids.
        time: `[n]` int64 Unix seconds; an event of this very second is not before it.

    Returns:
        `[n]` int64, one past the last such event in the log; the user's first event where there is none.
    """
    low, high = log.offsets[user], log.offsets[user + 1]
    while (open_ := low < high).any():
        middle = (low + high) // 2
        earlier = open_ & (log.timestamp[np.minimum(middle, log.n_events - 1)] < time)
        low, high = np.where(earlier, middle + 1, low), np.where(open_ & ~earlier, middle, high)
    return low
