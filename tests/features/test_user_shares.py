"""Shares of each user's events, user by user."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.user_shares import UserShares

pytestmark = pytest.mark.filterwarnings("ignore:user_shares")


def test_parts_are_slices_of_each_user_and_short_users_test_nothing() -> None:
    lengths = np.array([1, 2, 4, 5, 9, 10, 23])
    users = np.repeat(np.arange(len(lengths)), lengths)
    frame = pd.DataFrame({"user_id": users, "item_id": np.arange(len(users)), "timestamp": np.arange(len(users))})
    log = EventLog.from_frame(frame, Schema(name="toy"))
    split = UserShares(0.7, 0.2)(log)
    tested = dict(zip(split.test.users.tolist(), range(len(split.test)), strict=True))
    validated = dict(zip(split.validation.users.tolist(), range(len(split.validation)), strict=True))
    for user, n in enumerate(lengths, 1):
        events = list(range(log.offsets[user], log.offsets[user + 1]))
        train, test = events[: int(0.7 * n)], events[n - int(0.2 * n) :]
        assert list(range(split.train_start[user], split.train_end[user])) == train
        assert (user in tested) is bool(test)
        if test:
            row = tested[user]
            assert list(range(split.test.target_start[row], split.test.target_end[row])) == test
        between = events[len(train) : n - len(test)]
        if between and train:
            row = validated[user]
            assert list(range(split.validation.target_start[row], split.validation.target_end[row])) == between
            assert split.validation.history_end[row] == split.train_end[user]
    assert min(tested) == 4  # whoever has five events has one to test


def test_shares_that_leave_nothing_are_refused() -> None:
    for train, test in ((0.0, 0.2), (0.7, 0.0), (0.9, 0.2)):
        with pytest.raises(ValueError, match="positive and at most 1"):
            UserShares(train, test)
