"""The events of one user, as a saved model is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features.event_log import EventLog


@dataclass(frozen=True)
class History:
    """The events of one user, oldest first.

    Attributes:
        items: `[n]` int64 item ids.
        times: `[n]` int64 Unix seconds.
        user: id of the user; 0 for one the log does not know.
        queries: `[n]` the text of the query that each event answered, None for none; None: nobody searched.
        actions: `[n]` int64, the code of what was done with each item, 0 where that is not known; None: nowhere.
    """

    items: NDArray[np.int64]
    times: NDArray[np.int64]
    user: int = 0
    queries: Sequence[str | None] | None = None
    actions: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of events."""
        return len(self.items)

    def last(self, n: int | None) -> History:
        """The newest n events; None: all."""
        at = slice(max(len(self) - n, 0), None) if n is not None else slice(None)
        return History(
            self.items[at],
            self.times[at],
            self.user,
            None if self.queries is None else self.queries[at],
            None if self.actions is None else self.actions[at],
        )

    @classmethod
    def of_user(cls, log: EventLog, user: int) -> History:
        """All events of a user of the log."""
        events = slice(int(log.offsets[user]), int(log.offsets[user + 1]))
        actions = log.columns["action"][events].astype(np.int64) if "action" in log.columns else None
        queries = None
        if log.schema.of("query"):
            codes = log.columns["query"][events].astype(np.int64)
            texts = np.full(len(codes), None, dtype=object)
            texts[codes > 0] = log.vocabularies["query"].values.take(codes[codes > 0] - 1)
            queries = texts.tolist()
        times = np.array(log.timestamp[events], dtype=np.int64)
        return cls(log.item_id[events].astype(np.int64), times, user, queries, actions)
