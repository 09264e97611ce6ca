"""A share of each user's events trains, and a share of them tests."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from recsys.features.event_log import EventLog
from recsys.features.splits import HeldOut, Ids, SplitRule


class UserShares(SplitRule):
    """The first events of each user train, the last ones test, and those between validate.

    Of n events `int(train * n)` train and `int(test * n)` test, so that whoever has few has nothing to be tested on.
    Users share no moment at which they are cut, so training sees events later than some targets. Where the order of a
    user's events is random, so are the parts, as in published numbers of models that ignore order.

    Args:
        train: share that trains.
        test: share that tests.

    Raises:
        ValueError: a share is not positive, or both are more than the whole.
    """

    name = "user_shares"

    def __init__(self, train: float = 0.7, test: float = 0.2) -> None:
        if not (train > 0 and test > 0 and train + test <= 1):
            raise ValueError(f"train and test must be positive and at most 1 together, not {train} and {test}")
        self.train, self.test = train, test

    def settings(self) -> dict[str, Any]:
        return {"train": self.train, "test": self.test}

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        warnings.warn(
            "user_shares trains on events later than some test targets; use GlobalTime to judge what production would "
            "see",
            UserWarning,
            stacklevel=3,
        )
        start, end = log.offsets[:-1], log.offsets[1:]
        lengths = end - start
        train_end = start + (self.train * lengths).astype(np.int64)
        test_start = np.maximum(end - (self.test * lengths).astype(np.int64), train_end)
        users = np.arange(1, log.n_users + 1)
        validation = HeldOut.of(start, train_end, test_start, users)
        return start, train_end, validation, HeldOut.of(start, test_start, end, users), {}
