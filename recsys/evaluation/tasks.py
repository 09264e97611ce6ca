"""Which requests are put to a model: whatever a user took next, recommendations alone, or searches alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.event_log import EventLog
from recsys.features.jagged import JaggedColumn, expand_ranges, offsets_of
from recsys.features.splits import HeldOut, Ids, Split

Part = Literal["test", "validation", "test_cold_users", "validation_cold_users"]
Task = Literal["recommendation", "search"]


@dataclass(frozen=True)
class Requests:
    """Requests to be judged: what is known of who asks, what is asked, and the events that answer it.

    Attributes:
        users: `[n]` int64 user ids, ascending; a user who searches twice stands in two rows.
        history_start: `[n]` int64, first event of the history in the log.
        history_end: `[n]` int64, one past its last event.
        targets: `[n]` rows of event indices. The first is the event that the request stands for: its time is the time
            of the request.
        query: `[n]` int64 query codes; None: nobody searches.
        other_task: events of the part that belong to the other task, and are not judged.
    """

    users: Ids
    history_start: Ids
    history_end: Ids
    targets: JaggedColumn
    query: Ids | None = None
    other_task: int = 0

    def __len__(self) -> int:
        return len(self.users)

    @property
    def history_length(self) -> Ids:
        """`[n]` events of each history."""
        return self.history_end - self.history_start

    def history_items(self, log: EventLog, rows: NDArray[np.int64]) -> JaggedColumn:
        """Item ids of the whole histories of `rows`."""
        lengths = self.history_length[rows]
        items = log.item_id[expand_ranges(self.history_start[rows], lengths)]
        return JaggedColumn(items.astype(np.int64), offsets_of(lengths))

    def target_items(self, log: EventLog, rows: NDArray[np.int64]) -> JaggedColumn:
        """Item ids of the targets of `rows`, repeats included."""
        events = self.targets.gather(rows)
        return JaggedColumn(log.item_id[events.values].astype(np.int64), events.offsets)

    def blocks(self, size: int) -> list[NDArray[np.int64]]:
        """Row numbers, `size` at a time, in order of history length, so that little is padded."""
        order = np.argsort(self.history_length, kind="stable")
        return [order[first : first + size] for first in range(0, len(order), size)]

    def batch(
        self, log: EventLog, rows: NDArray[np.int64], max_length: int | None, device: torch.device
    ) -> SequenceBatch:
        """The histories of `rows`, with the time and the query of the request."""
        made = histories(
            log,
            self.users[rows],
            self.history_start[rows],
            self.history_end[rows],
            max_length,
            request_query=None if self.query is None else self.query[rows],
        )
        at = self.targets.values[self.targets.offsets[rows]]
        request = torch.from_numpy(np.asarray(log.timestamp[at], dtype=np.int64))
        return replace(made, request_timestamp=request).to(device)


def requests(split: Split, which: Part = "test", task: Task | None = None) -> Requests:
    """The requests of a part of a split.

    | task | a row is | relevant | query |
    | --- | --- | --- | --- |
    | None | a user | all targets | none, whether there was one or not |
    | `recommendation` | a user who has targets without a query | these targets | none |
    | `search` | a target event with a query | the user's targets with this query | this query |

    Raises:
        ValueError: the part holds no such request, or the log no queries to search for.
    """
    part: HeldOut = getattr(split, which)
    if not len(part):
        raise ValueError(f"split `{split.rule}` has no user in `{which}`: there is nothing to judge")
    lengths = part.target_end - part.target_start
    if task is None:
        targets = JaggedColumn(part.targets(), offsets_of(lengths))
        return Requests(part.users, part.history_start, part.history_end, targets)
    if task == "search" and "query" not in split.log.columns:
        raise ValueError("task `search`: the log has no queries; name their column as `events.query` in the schema")
    events, row = part.targets(), np.repeat(np.arange(len(part)), lengths)
    query = split.log.columns["query"][events].astype(np.int64) if "query" in split.log.columns else 0 * events
    of_task = query != 0 if task == "search" else query == 0
    if not of_task.any():
        raise ValueError(f"split `{split.rule}` has no target of task `{task}` in `{which}`: there is nothing to judge")
    events, row, query = events[of_task], row[of_task], query[of_task]
    if task == "search":
        rows, targets, asked = _searches(events, row, query)
    else:
        count = np.bincount(row, minlength=len(part))
        rows, asked = np.flatnonzero(count), None
        targets = JaggedColumn(events, offsets_of(count[rows]))
    return Requests(
        users=part.users[rows],
        history_start=part.history_start[rows],
        history_end=part.history_end[rows],
        targets=targets,
        query=asked,
        other_task=int(np.count_nonzero(~of_task)),
    )


def tasks_of(split: Split, which: Part = "test") -> tuple[Task | None, ...]:
    """The tasks that a part of a split can be judged by: both, or those it has, where the schema reads queries.

    A log whose queries no feature reads has one, None: what a user took next, however it was found.
    """
    part: HeldOut = getattr(split, which)
    if not split.log.schema.of("query") or not len(part):
        return (None,)
    asked = split.log.columns["query"][part.targets()] != 0
    there: tuple[tuple[Task, bool], ...] = (("search", bool(asked.any())), ("recommendation", not asked.all()))
    return tuple(task for task, found in there if found)


def _searches(events: Ids, row: Ids, query: Ids) -> tuple[Ids, JaggedColumn, Ids]:
    """One request per event: the row of its user, the events of the same user and query from its own on, its query."""
    order = np.lexsort((query, row))  # stable: time decides within a user and a query
    events, row, query = events[order], row[order], query[order]
    opens = np.flatnonzero(np.concatenate([[True], (row[1:] != row[:-1]) | (query[1:] != query[:-1])]))
    count = np.diff(np.append(opens, len(events)))
    first, size = np.repeat(opens, count), np.repeat(count, count)
    own = np.arange(len(events)) - first
    step = expand_ranges(own, size)  # the group's events from the own one on, and then round to those before it
    at = np.repeat(first, size) + step % np.repeat(size, size)
    return row, JaggedColumn(events[at], offsets_of(size)), query
