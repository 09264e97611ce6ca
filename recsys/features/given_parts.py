"""A log that says which of its events train and which test, as published splits do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from recsys.features.event_log import EventLog
from recsys.features.random_test import has_order, parts_of
from recsys.features.splits import HeldOut, Ids, SplitError, SplitRule


class GivenParts(SplitRule):
    """Trains and tests on the parts that a column names, so that numbers can be put beside published ones.

    The column is an event feature of type categorical; events of any other part are left out. The log has no order in
    time: events of a user are put in the order of training, validation, test and the rest, in memory.

    Args:
        column: that names the part.
        train: value of the column in the training part.
        test: its value in the test part.
        validation_share: share of the training events of each user that validate, rounded; one always trains.
        seed: draws them.

    Raises:
        ValueError: `validation_share` is no share below 1.
        SplitError: (when it splits) the log lacks the column or a part, or has an order in time.
    """

    name = "given_parts"

    def __init__(
        self,
        column: str = "split",
        train: str = "train",
        test: str = "test",
        validation_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not 0 <= validation_share < 1:
            raise ValueError(f"validation_share must be at least 0 and below 1, not {validation_share}")
        self.column, self.train, self.test = column, train, test
        self.validation_share, self.seed = validation_share, seed

    def settings(self) -> dict[str, Any]:
        return dict(vars(self))

    def ordered(self, log: EventLog) -> EventLog:
        if has_order(log):
            raise SplitError(
                f"{self.name}: events of a user differ in time, which given parts take no account of; give the log one "
                "timestamp, or split it by another rule"
            )
        part = parts_of(log, self.column, {self.train, self.test}, self.name)
        stage = np.select([part == self.train, part == self.test], [0, 1], 2)
        drawn = np.where(stage == 0, np.random.default_rng(self.seed).random(log.n_events), 0)
        order = np.lexsort((drawn, stage, log.user_ids()))  # the last of the training events of each user will validate
        return replace(log, columns={name: np.asarray(values)[order] for name, values in log.columns.items()})

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        users, part = log.user_ids(), parts_of(log, self.column, {self.train, self.test}, self.name)
        trained, tested = (
            np.bincount(users[part == name], minlength=log.n_users + 1) for name in (self.train, self.test)
        )
        held = np.minimum((self.validation_share * trained + 0.5).astype(np.int64), np.maximum(trained - 1, 0))
        start, everybody = log.offsets[:-1], np.arange(1, log.n_users + 1)
        validation = HeldOut.of(start, start + trained - held, start + trained, everybody)
        test = HeldOut.of(start, start + trained, start + trained + tested, everybody)
        return (
            start,
            start + trained - held,
            validation,
            test,
            {"left_out_events": int(len(part) - (trained + tested).sum())},
        )
