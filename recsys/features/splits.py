"""Which events train a model, which choose it and which judge it."""

from __future__ import annotations

import abc
import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.event_log import EventLog
from recsys.features.jagged import expand_ranges

Ids = NDArray[np.int64]


class SplitError(ValueError):
    """A log that a rule cannot split; the message says why."""


@dataclass(frozen=True)
class HeldOut:
    """Users to be judged: what is known of each, and what is to be found.

    Attributes:
        users: `[n]` int64 user ids, ascending.
        history_start: `[n]` int64, first event of the history in the log.
        history_end: `[n]` int64, one past its last event.
        target_start: `[n]` int64, first event to be found.
        target_end: `[n]` int64, one past the last.
    """

    users: Ids
    history_start: Ids
    history_end: Ids
    target_start: Ids
    target_end: Ids

    def __len__(self) -> int:
        return len(self.users)

    @property
    def n_targets(self) -> int:
        """Events to be found, over all users."""
        return int((self.target_end - self.target_start).sum())

    def targets(self) -> Ids:
        """`[n_targets]` int64 event indices, user by user."""
        return expand_ranges(self.target_start, self.target_end - self.target_start)

    def arrays(self) -> tuple[Ids, ...]:
        """The five arrays in the order of the fields."""
        return self.users, self.history_start, self.history_end, self.target_start, self.target_end

    def where(self, keep: NDArray[np.bool_]) -> HeldOut:
        """The users at which `keep` `[n]` is true."""
        return HeldOut(*(array[keep] for array in self.arrays()))

    def sample(self, n: int, seed: int = 0) -> HeldOut:
        """`n` of the users, drawn by the seed, in their order; all where there are no more."""
        if n >= len(self):
            return self
        keep = np.zeros(len(self), dtype=bool)
        keep[np.random.default_rng(seed).choice(len(self), n, replace=False)] = True
        return self.where(keep)

    @classmethod
    def of(cls, start: Ids, cut: Ids, end: Ids, users: Ids) -> HeldOut:
        """History `start:cut` and targets `cut:end` (arrays by user id) of the given users that have targets."""
        users = users[end[users] > cut[users]]
        return cls(users, start[users], cut[users], cut[users], end[users])


@dataclass(frozen=True)
class Split:
    """The parts of a log, frozen: equal hashes mean equal parts of equal logs.

    Attributes:
        rule: name of the rule that made it.
        log: the log.
        train_start: `[n_users + 1]` int64 by user id, first training event (row 0, padding, is empty).
        train_end: `[n_users + 1]` int64, one past the last training event.
        validation: users that have a history and at least one target.
        test: likewise.
        validation_cold_users: users with targets and no history; their histories are empty.
        test_cold_users: likewise.
        hash: sha256 over the log's fingerprint, the rule with its settings, and every array.
        facts: counts of users, events, cold users and cold items, and the cuts of the rule.
    """

    rule: str
    log: EventLog
    train_start: Ids
    train_end: Ids
    validation: HeldOut
    test: HeldOut
    validation_cold_users: HeldOut
    test_cold_users: HeldOut
    hash: str
    facts: dict[str, int | float]

    def __repr__(self) -> str:
        parts = f"{self.facts['train_events']:,} training events, {len(self.validation):,} users validate"
        return f"Split({self.rule} of {self.log!r}: {parts}, {len(self.test):,} test; {self.hash[:12]})"

    def train_counts(self) -> Ids:
        """`[n_items + 1]` int64, training events of each item."""
        return _train_counts(self.log, self.train_start, self.train_end)


class SplitRule(abc.ABC):
    """A way to split a log. A subclass names itself and cuts; `__call__` counts, checks and freezes."""

    name: str

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """The arguments of the rule, for the hash."""

    def described(self) -> dict[str, Any]:
        """Class and arguments, from which the rule can be made again."""
        kind = type(self)
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": self.settings()}

    def ordered(self, log: EventLog) -> EventLog:
        """The log that is cut: another one than the given where it has no times, and so no order to keep."""
        return log

    @abc.abstractmethod
    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        """Training start and end by user id, validation and test (cold users among them), and facts of the rule."""

    def __call__(self, log: EventLog) -> Split:
        """Splits `log`.

        Raises:
            SplitError: nothing is left to train on or to test on.
        """
        log = self.ordered(log)
        train_start, train_end, validation, test, facts = self.cut(log)
        counts = _train_counts(log, train_start, train_end)
        if not counts.any():
            raise SplitError(f"{self.name}: no event is left to train on")
        if not len(test):
            raise SplitError(f"{self.name}: no user has an event to test on; the log has {log.n_events} events")
        parts: dict[str, HeldOut] = {}
        facts = dict(facts) | {
            "train_users": int((train_end > train_start).sum()),
            "train_events": int(counts.sum()),
            "train_items": int((counts > 0).sum()),
        }
        for part, both in (("validation", validation), ("test", test)):
            warm = both.history_end > both.history_start
            parts[part], parts[f"{part}_cold_users"] = both.where(warm), both.where(~warm)
            targets = np.asarray(log.item_id[both.targets()])
            cold = targets[counts[targets] == 0]
            facts |= {
                f"{part}_users": len(parts[part]),
                f"{part}_events": parts[part].n_targets,
                f"{part}_cold_users": len(parts[f"{part}_cold_users"]),
                f"{part}_cold_user_events": parts[f"{part}_cold_users"].n_targets,
                f"{part}_cold_items": len(np.unique(cold)),
                f"{part}_cold_item_events": len(cold),
            }
        arrays = [train_start, train_end, *(array for part in parts.values() for array in part.arrays())]
        return Split(
            rule=self.name,
            log=log,
            train_start=train_start,
            train_end=train_end,
            hash=_digest(log.fingerprint, self.name, repr(sorted(self.settings().items())), arrays),
            facts=facts,
            **parts,
        )


class GlobalTime(SplitRule):
    """Two moments cut the whole log, as in production: nobody's future is trained on.

    Training is every event up to the first cut. Validation targets lie after the first cut and up to the second,
    with everything up to the first as history; test targets lie after the second, with everything up to it as history.

    Args:
        test_share: share of the events after the second cut (fewer where many events share the time of the cut).
        validation_share: share of the events between the cuts.
    """

    name = "global_time"

    def __init__(self, test_share: float = 0.1, validation_share: float = 0.1) -> None:
        if not (0 < test_share < 1 and 0 <= validation_share < 1 and test_share + validation_share < 1):
            raise ValueError("shares must be positive and leave something to train on")
        self.test_share = test_share
        self.validation_share = validation_share

    def settings(self) -> dict[str, Any]:
        return {"test_share": self.test_share, "validation_share": self.validation_share}

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        train_share = 1 - self.test_share - self.validation_share
        times = np.quantile(log.timestamp, [train_share, 1 - self.test_share], method="inverted_cdf")
        first, second = (int(time) for time in times)
        start, end = log.offsets[:-1], log.offsets[1:]
        until_first, until_second = (start + _events_until(log, time) for time in (first, second))
        users = np.arange(1, log.n_users + 1)
        validation = HeldOut.of(start, until_first, until_second, users)
        test = HeldOut.of(start, until_second, end, users)
        return start, until_first, validation, test, {"first_cut": first, "second_cut": second}


class LeaveLastOut(SplitRule):
    """The last event of each user is the test target, the one before it the validation target.

    Users share no moment at which they are cut, so training sees events later than some targets: scores are
    comparable with publications, not with production. `GlobalTime` has no such leak.

    Args:
        refit: True trains on everything before the last event and validates on nothing: for the one training after
            settings and epochs were chosen by the strict reading. The two readings are never compared.
    """

    def __init__(self, refit: bool = False) -> None:
        self.refit = refit

    @property
    def name(self) -> str:  # type: ignore[override]
        """`leave_last_out_strict` or `leave_last_out_refit`."""
        return "leave_last_out_refit" if self.refit else "leave_last_out_strict"

    def settings(self) -> dict[str, Any]:
        return {"refit": self.refit}

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        warnings.warn(
            "leave_last_out trains on events later than some test targets; use GlobalTime to judge what production "
            "would see",
            UserWarning,
            stacklevel=3,
        )
        start, end = log.offsets[:-1], log.offsets[1:]
        lengths = end - start
        users = np.arange(1, log.n_users + 1)
        before_last = np.where(lengths >= 2, end - 1, end)
        test = HeldOut.of(start, before_last, end, users)
        train_end = before_last if self.refit else np.where(lengths >= 3, end - 2, before_last)
        return start, train_end, HeldOut.of(start, train_end, before_last, users), test, {}


class UserHoldout(SplitRule):
    """Some users are kept away from training altogether; the last event of each is its target.

    Args:
        share: share of the users with two events or more that test.
        validation_share: share of them that validate.
        seed: draws the users.
    """

    name = "user_holdout"

    def __init__(self, share: float = 0.1, validation_share: float = 0.1, seed: int = 0) -> None:
        if not (0 < share < 1 and 0 <= validation_share < 1 and share + validation_share < 1):
            raise ValueError("shares must be positive and leave users to train on")
        self.share = share
        self.validation_share = validation_share
        self.seed = seed

    def settings(self) -> dict[str, Any]:
        return {"share": self.share, "validation_share": self.validation_share, "seed": self.seed}

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        start, end = log.offsets[:-1], log.offsets[1:]
        eligible = np.flatnonzero(end - start >= 2)
        shuffled = np.random.default_rng(self.seed).permutation(eligible)
        n_test = max(1, round(self.share * len(eligible)))
        n_validation = round(self.validation_share * len(eligible))
        test_users = np.sort(shuffled[:n_test])
        validation_users = np.sort(shuffled[n_test : n_test + n_validation])
        train_end = end.copy()
        held = np.concatenate([test_users, validation_users])
        train_end[held] = start[held]
        validation = HeldOut.of(start, end - 1, end, validation_users)
        test = HeldOut.of(start, end - 1, end, test_users)
        history_only = sum(int((part.history_end - part.history_start).sum()) for part in (validation, test))
        return start, train_end, validation, test, {"history_only_events": history_only}


def _events_until(log: EventLog, time: int) -> Ids:
    """`[n_users + 1]` number of events of each user at or before `time`; 8 bytes of memory per event."""
    before = np.zeros(log.n_events + 1, dtype=np.int64)
    np.cumsum(log.timestamp <= time, out=before[1:])
    return before[log.offsets[1:]] - before[log.offsets[:-1]]


def _train_counts(log: EventLog, start: Ids, end: Ids) -> Ids:
    """`[n_items + 1]` training events of each item; a byte or two of memory per event beside the item ids."""
    trains = np.zeros(log.n_events + 1, dtype=np.int8)
    used = end > start
    np.add.at(trains, start[used], 1)
    np.add.at(trains, end[used], -1)
    inside = np.cumsum(trains[:-1], dtype=np.int8).view(bool)
    return np.bincount(log.item_id[inside], minlength=log.n_items + 1)


def _digest(fingerprint: str, rule: str, settings: str, arrays: Iterable[Ids]) -> str:
    """Sha256 of everything that makes a split what it is."""
    digest = hashlib.sha256(f"{fingerprint}\n{rule}\n{settings}\n".encode())
    for array in arrays:
        digest.update(f"{len(array)}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()
