"""What belongs to one request: events that were answered together, and so must not explain each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.event_log import EventLog


def opens_request(log: EventLog, events: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each event is the first of its request, as far as the event before it in the log tells.

    Events of a user belong to one request when they carry the same `request_id`; in a log without that column, when
    they share a timestamp. An `order` column says that events of one second happened one after the other: each is then
    a request of its own.

    Args:
        log: the event log.
        events: `[n]` event indices, none of them the first event of a user.

    Returns:
        `[n]` bool.
    """
    if "request_id" in log.columns:
        request = log.columns["request_id"]
        return np.asarray((request[events] != request[events - 1]) | (request[events] == 0))
    if log.schema.events.order is not None:
        return np.ones(len(events), dtype=bool)
    return np.asarray(log.timestamp[events] != log.timestamp[events - 1])


def cutoffs(opens: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many events of a window lie before the request of each target.

    Args:
        opens: `[T]` whether the target after each event of the windows opens a request.
        lengths: `[n]` events of each window, with sum T.

    Returns:
        `[T]` int64, from 0 (the whole window belongs to the target's request) to the event's place in the window + 1.

    Example:
        >>> cutoffs(np.array([True, False, True, False]), np.array([3, 1])).tolist()  # targets 1 and 2 came together
        [1, 1, 3, 0]
    """
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    # Places count through all windows, so that a running maximum never reaches back into the window before.
    return np.maximum.accumulate(np.where(opens, np.arange(1, len(opens) + 1), first)) - first
