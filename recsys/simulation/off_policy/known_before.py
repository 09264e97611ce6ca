"""The histories that a recommender may read in a logged round: events before it, and none after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.event_log import EventLog


def known_before(
    events: EventLog, users: Any, times: ArrayLike, max_length: int | None = None
) -> Callable[[NDArray[np.int64]], SequenceBatch]:
    """Makes the batches of rounds that `RecommenderScores` asks for.

    Args:
        events: what users did.
        users: `[N]` raw user of each round; one that the log does not know has no history.
        times: `[N]` int64 Unix seconds of each round; events of the same second are not known yet.
        max_length: most events of a history, the newest; None: all.

    Example:
        >>> import pandas as pd
        >>> from recsys.features.schema import Schema
        >>> frame = pd.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 5, 3]})
        >>> events = EventLog.from_frame(frame, Schema(name="shop"))
        >>> batches = known_before(events, ["u", "u", "v", "w"], [5, 6, 3, 9])
        >>> batches(np.arange(4)).lengths.tolist()
        [1, 2, 0, 0]
    """
    user, time = events.users.encode(users), np.asarray(times, dtype=np.int64)
    start, last = np.asarray(events.offsets)[user], np.asarray(events.offsets)[user + 1]
    end = _first_not_before(np.asarray(events.timestamp), start, last, time)

    def batches(rounds: NDArray[np.int64]) -> SequenceBatch:
        made = histories(events, user[rounds], start[rounds], end[rounds], max_length)
        return replace(made, request_timestamp=torch.from_numpy(time[rounds]))

    return batches


def _first_not_before(
    timestamp: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64], time: NDArray[np.int64]
) -> NDArray[np.int64]:
    """`[N]` first event of each range whose time is not before `time`, by bisection of all ranges at once."""
    low, high = start.copy(), end.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        before = open_ & (timestamp[np.minimum(middle, len(timestamp) - 1)] < time)
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low
