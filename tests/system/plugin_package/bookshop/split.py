"""A split rule of our own."""

from typing import Any

import numpy as np

from recsys.features.event_log import EventLog
from recsys.features.splits import HeldOut, Ids, SplitRule


class FirstEvents(SplitRule):
    """Trains on the first `n` events of each user; the next one validates, the one after it tests."""

    name = "first_events"

    def __init__(self, n: int = 3):
        self.n = n

    def settings(self) -> dict[str, Any]:
        return {"n": self.n}

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        start, end = log.offsets[:-1], log.offsets[1:]  # of each user's events; row 0 is padding
        train, validation, test = (np.minimum(start + self.n + more, end) for more in (0, 1, 2))
        users = np.arange(1, log.n_users + 1)
        validates = HeldOut.of(start, train, validation, users)
        tests = HeldOut.of(start, validation, test, users)
        return start, train, validates, tests, {}
