from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, HeldOut, LeaveLastOut, Split, SplitError, SplitRule, UserHoldout
from recsys.features.vocabulary import Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out")


def log_of(lengths: list[int], times: list[int], items: list[int]) -> EventLog:
    """A log built by hand: users with the given numbers of events, times sorted within each."""
    offsets = np.concatenate([[0, 0], np.cumsum(lengths)]).astype(np.int64)
    stamps = np.concatenate([np.sort(times[a:b]) for a, b in pairwise(offsets[1:])])
    return EventLog(
        schema=Schema(name="toy"),
        users=Vocabulary.of(range(len(lengths))),
        items=Vocabulary.of(range(5)),
        offsets=offsets,
        columns={"item_id": np.array(items, dtype=np.int32), "timestamp": stamps.astype(np.int64)},
        fingerprint="toy",
    )


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    lengths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=8))
    n = sum(lengths)
    times = draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))
    items = draw(st.lists(st.integers(1, 5), min_size=n, max_size=n))
    return log_of(lengths, times, items)


RULES: list[SplitRule] = [
    GlobalTime(),
    GlobalTime(0.3, 0.3),
    LeaveLastOut(),
    LeaveLastOut(refit=True),
    UserHoldout(0.3, 0.3, seed=3),
]


def events_of(part: HeldOut) -> tuple[set[int], set[int]]:
    """History and target events."""
    histories = {e for a, b in zip(part.history_start, part.history_end, strict=True) for e in range(a, b)}
    targets = {e for a, b in zip(part.target_start, part.target_end, strict=True) for e in range(a, b)}
    return histories, targets


def train_events(split: Split) -> set[int]:
    return {e for a, b in zip(split.train_start, split.train_end, strict=True) for e in range(a, b)}


@settings(max_examples=60, deadline=None)
@given(logs(), st.sampled_from(RULES))
def test_what_every_split_must_keep(log: EventLog, rule: SplitRule) -> None:
    try:
        split = rule(log)
    except SplitError:
        return
    train, owner = train_events(split), log.user_ids()
    parts = [split.validation, split.test, split.validation_cold_users, split.test_cold_users]
    validation, test = (events_of(a)[1] | events_of(b)[1] for a, b in (parts[::2], parts[1::2]))
    assert not (train & validation or train & test or validation & test)
    accounted = train | validation | test
    for part in parts:
        for row in zip(*part.arrays(), strict=True):
            user, first, last, target, end = (int(value) for value in row)
            assert log.offsets[user] == first <= last == target < end <= log.offsets[user + 1]
            assert {owner[e] for e in range(first, end)} == {user}
            accounted |= set(range(first, last))
    assert accounted == set(range(log.n_events))
    assert all(len(events_of(part)[0]) == 0 for part in parts[2:])
    assert all((part.history_end > part.history_start).all() for part in parts[:2])
    counts = np.bincount(log.item_id[sorted(train)], minlength=log.n_items + 1)
    assert split.train_counts().tolist() == counts.tolist()
    facts = split.facts
    assert facts["train_events"] == len(train)
    for name, events in (("validation", validation), ("test", test)):
        assert facts[f"{name}_events"] + facts[f"{name}_cold_user_events"] == len(events)
        cold = [e for e in events if counts[log.item_id[e]] == 0]
        assert facts[f"{name}_cold_item_events"] == len(cold)
        assert facts[f"{name}_cold_items"] == len({log.item_id[e] for e in cold})


@settings(max_examples=40, deadline=None)
@given(logs(), st.sampled_from([(0.1, 0.1), (0.3, 0.2), (0.5, 0.0)]))
def test_global_time_equals_a_loop(log: EventLog, shares: tuple[float, float]) -> None:
    try:
        split = GlobalTime(*shares)(log)
    except SplitError:
        return
    ordered = sorted(int(time) for time in log.timestamp)
    first, second = split.facts["first_cut"], split.facts["second_cut"]
    for cut, share in ((first, 1 - sum(shares)), (second, 1 - shares[0])):
        assert sum(time <= cut for time in ordered) >= share * len(ordered) - 1e-9
        assert sum(time < cut for time in ordered) < share * len(ordered) + 1e-9
    assert train_events(split) == {e for e, time in enumerate(log.timestamp) if time <= first}
    for low, high, warm, cold in (
        (first, second, split.validation, split.validation_cold_users),
        (second, 10**9, split.test, split.test_cold_users),
    ):
        for user in range(1, log.n_users + 1):
            events = range(log.offsets[user], log.offsets[user + 1])
            history = [e for e in events if log.timestamp[e] <= low]
            targets = [e for e in events if low < log.timestamp[e] <= high]
            assert (user in warm.users) == bool(history and targets)
            assert (user in cold.users) == bool(not history and targets)
            if history and targets:
                (row,) = np.flatnonzero(warm.users == user)
                assert list(range(warm.history_start[row], warm.history_end[row])) == history
                assert list(range(warm.target_start[row], warm.target_end[row])) == targets


@pytest.mark.parametrize("refit", [False, True])
def test_leave_last_out_by_hand(refit: bool) -> None:
    """Users with 1, 2, 3 and 5 events: 0 | 1 2 | 3 4 5 | 6 7 8 9 10."""
    split = LeaveLastOut(refit)(log_of([1, 2, 3, 5], [0] * 11, [1] * 11))
    assert split.rule == ("leave_last_out_refit" if refit else "leave_last_out_strict")
    assert split.test.users.tolist() == [2, 3, 4] and split.test.targets().tolist() == [2, 5, 10]
    assert events_of(split.test)[0] == {1, 3, 4, 6, 7, 8, 9}
    if refit:
        assert train_events(split) == {0, 1, 3, 4, 6, 7, 8, 9} and len(split.validation) == 0
    else:
        assert train_events(split) == {0, 1, 3, 6, 7, 8}
        assert split.validation.users.tolist() == [3, 4] and split.validation.targets().tolist() == [4, 9]
        assert events_of(split.validation)[0] == {3, 6, 7, 8}


def test_user_holdout_keeps_whole_users_away() -> None:
    log = log_of([3] * 50 + [1] * 10, list(range(160)), [1] * 160)
    split = UserHoldout(0.2, 0.1, seed=1)(log)
    held = set(split.test.users) | set(split.validation.users)
    assert len(split.test) == 10 and len(split.validation) == 5 and len(held) == 15
    assert max(held) <= 50, "a user with one event has no history to be judged by"
    assert {log.user_ids()[e] for e in train_events(split)} == set(range(1, 61)) - held
    assert split.facts["history_only_events"] == 30
    other = UserHoldout(0.2, 0.1, seed=2)(log)
    assert set(other.test.users) != set(split.test.users) and other.hash != split.hash


def test_hash_names_log_rule_and_settings() -> None:
    log = log_of([4] * 10, list(range(40)), [1, 2] * 20)
    same = log_of([4] * 10, list(range(40)), [1, 2] * 20)
    assert GlobalTime()(log).hash == GlobalTime()(same).hash and len(GlobalTime()(log).hash) == 64
    other = EventLog(**{**vars(log), "fingerprint": "other"})
    splits = [rule(log) for rule in RULES] + [GlobalTime(0.2)(log), GlobalTime()(other)]
    assert len({split.hash for split in splits}) == len(splits)


def test_leave_last_out_warns_of_its_leak() -> None:
    log = log_of([3, 3], list(range(6)), [1] * 6)
    with pytest.warns(UserWarning, match="later than some test targets"):
        LeaveLastOut()(log)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GlobalTime(0.4, 0.2)(log)


def test_logs_that_cannot_be_split() -> None:
    with pytest.raises(SplitError, match="no user has an event to test on"):
        LeaveLastOut()(log_of([1, 1], [0, 1], [1, 1]))
    with pytest.raises(SplitError, match="no user has an event to test on"):
        GlobalTime()(log_of([2, 2], [7] * 4, [1] * 4))
    with pytest.raises(ValueError, match="leave something to train on"):
        GlobalTime(0.6, 0.4)


def test_a_frame_splits_like_its_rows() -> None:
    frame = pd.DataFrame({"user_id": list("aab"), "item_id": [1, 2, 1], "timestamp": [2, 1, 3]})
    split = LeaveLastOut()(EventLog.from_frame(frame, Schema(name="toy")))
    assert split.log.items.decode(split.log.item_id[split.test.targets()]).tolist() == [1]
