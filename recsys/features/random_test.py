"""A log whose test part was shown at random, and says so in a column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.event_log import EventLog
from recsys.features.jagged import offsets_of
from recsys.features.splits import HeldOut, Ids, SplitError, SplitRule


@dataclass(frozen=True)
class JudgedItems:
    """Items that users were shown at random and gave their opinion of, by user and item.

    Attributes:
        users: `[U]` int64, ascending, those with at least one.
        offsets: `[U + 1]` int64; the items of `users[row]` are `items[offsets[row]:offsets[row + 1]]`.
        items: `[N]` int64.
        relevant: `[N]` bool, whether the user liked it.
    """

    users: Ids
    offsets: Ids
    items: Ids
    relevant: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.users)


class RandomTest(SplitRule):
    """Trains on what users chose, and tests on what they were shown at random: without selection bias.

    A column of the log, an event feature of type categorical, says which part an event belongs to. The column `weight`
    says how much an item was liked. Events of less than `positive` are neither trained on nor to be found: an item of
    the training part that was rated low is unlabeled, like one that was never seen.

    The log has no order in time: events of a user are put in the order of training, validation, test and the rest, in
    memory.

    Args:
        column: that names the part.
        train: value of the column in the part that users chose.
        test: its value in the part that was shown at random.
        positive: least weight of a positive event.
        validation_share: share of the positive training events of each user that validate, rounded; one always trains.
        seed: draws them.

    Raises:
        ValueError: `validation_share` is no share below 1.
        SplitError: (when it splits) the log lacks a column, or has an order in time.
    """

    name = "random_test"

    def __init__(
        self,
        column: str = "split",
        train: str = "train_mnar",
        test: str = "test_random",
        positive: float = 4.0,
        validation_share: float = 0.3,
        seed: int = 0,
    ) -> None:
        if not 0 <= validation_share < 1:
            raise ValueError(f"validation_share must be at least 0 and below 1, not {validation_share}")
        self.column, self.train, self.test = column, train, test
        self.positive, self.validation_share, self.seed = positive, validation_share, seed

    def settings(self) -> dict[str, Any]:
        return dict(vars(self))

    def judged(self, log: EventLog) -> JudgedItems:
        """All events of the test part, liked or not; of a pair that occurs twice the one that was liked.

        Raises:
            SplitError: the log does not say what its parts are.
        """
        at = np.flatnonzero(self._part(log) == self.test)
        keys = log.user_ids()[at] * (log.n_items + 1) + np.asarray(log.item_id)[at]
        liked = self._liked(log)[at]
        order = np.lexsort((~liked, keys))
        keys, first = np.unique(keys[order], return_index=True)
        user, items = np.divmod(keys, log.n_items + 1)
        users, count = np.unique(user, return_counts=True)
        return JudgedItems(users, offsets_of(count), items, liked[order][first])

    def ordered(self, log: EventLog) -> EventLog:
        users, part, liked = log.user_ids(), self._part(log), self._liked(log)
        if has_order(log):
            raise SplitError(
                f"{self.name}: events of a user differ in time, which a test at random takes no account of; give the "
                "log one timestamp, or split it by another rule"
            )
        chosen, shown = liked & (part == self.train), liked & (part == self.test)
        stage = np.select([chosen, shown], [0, 1], 2)
        drawn = np.where(chosen, np.random.default_rng(self.seed).random(log.n_events), 0)
        order = np.lexsort((drawn, stage, users))  # the last of the chosen ones of each user will validate
        return replace(log, columns={name: np.asarray(values)[order] for name, values in log.columns.items()})

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        users, part, liked = log.user_ids(), self._part(log), self._liked(log)
        counts: list[Ids] = [
            np.bincount(users[liked & (part == name)], minlength=log.n_users + 1) for name in (self.train, self.test)
        ]
        chosen, shown = counts
        held = np.floor(self.validation_share * chosen + 0.5).astype(np.int64)
        start = log.offsets[:-1]
        train_end = start + chosen - np.minimum(held, np.maximum(chosen - 1, 0))
        shown_start = start + chosen
        everybody = np.arange(1, log.n_users + 1)
        validation = HeldOut.of(start, train_end, shown_start, everybody)
        test = HeldOut.of(start, shown_start, shown_start + shown, everybody)
        low: dict[str, int | float] = {
            f"low_{name}_events": int(((part == name) & ~liked).sum()) for name in (self.train, self.test)
        }
        return start, train_end, validation, test, low

    def _part(self, log: EventLog) -> NDArray[np.str_]:
        """`[n_events]` the part of each event."""
        return parts_of(log, self.column, {self.train, self.test}, self.name)

    def _liked(self, log: EventLog) -> NDArray[np.bool_]:
        """`[n_events]` whether an event is positive."""
        if "weight" not in log.columns:
            raise SplitError(f"{self.name}: the log does not say how much items were liked: set `events.weight`")
        liked: NDArray[np.bool_] = np.asarray(log.columns["weight"]) >= self.positive
        return liked


def has_order(log: EventLog) -> bool:
    """Whether events of a user differ in time."""
    return bool((np.diff(log.timestamp)[np.diff(log.user_ids()) == 0] != 0).any())


def parts_of(log: EventLog, column: str, needed: set[str], asks: str) -> NDArray[np.str_]:
    """The part that each event belongs to.

    Args:
        log: with a column that names parts.
        column: its name.
        needed: parts that it must name.
        asks: who wants to know, for the message.

    Returns:
        `[n_events]`.

    Raises:
        SplitError: there is no such column, or it lacks a part.
    """
    if column not in log.columns or column not in log.vocabularies:
        raise SplitError(
            f"{asks}: the log has no column `{column}` that names parts; give the schema an event feature of that "
            "name and type categorical"
        )
    names = np.append("", log.vocabularies[column].values.astype(str))
    if missing := needed - set(names.tolist()):
        raise SplitError(f"{asks}: column `{column}` names no part {sorted(missing)}; it has {names[1:].tolist()}")
    found: NDArray[np.str_] = names[np.asarray(log.columns[column])]
    return found
