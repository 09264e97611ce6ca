"""Training on a part of the data, judged like all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import override

from recsys.features.event_log import EventLog
from recsys.features.splits import HeldOut, Ids, Split, SplitRule


class Fraction(SplitRule):
    """Another rule, of whose training users only a share trains: with how few data is a method still good?

    Users are drawn, each with the whole training history, because a sequence with gaps is no smaller sample of the same
    sequences. Users of a smaller share are among those of a larger one of the same seed. Who validates and tests, with
    which histories and targets, is as the rule has it: a user who does not train is judged all the same. Share 1 is the
    rule itself, with its hash.

    More items have no training event, so slices by popularity are other slices at each share; compare methods within a
    share. Such targets are misses at a share below 1, under `GlobalTime` too, where the whole rule leaves them out.

    Args:
        rule: that splits.
        share: of the users with training events, above 0 and up to 1; one user at least.
        seed: draws the users.

    Raises:
        ValueError: the share is not one.

    Example:
        >>> from recsys.features.splits import GlobalTime
        >>> Fraction(GlobalTime(), 0.1).name
        'global_time, 0.1 of the users'
    """

    def __init__(self, rule: SplitRule, share: float = 1.0, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self.rule, self.share, self.seed = rule, share, seed

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the rule, and the share."""
        return f"{self.rule.name}, {self.share:g} of the users"

    def settings(self) -> dict[str, Any]:
        return {"rule": self.rule.described(), "share": self.share, "seed": self.seed}

    @override
    def __call__(self, log: EventLog) -> Split:
        return self.rule(log) if self.share == 1 else super().__call__(log)

    def ordered(self, log: EventLog) -> EventLog:
        return self.rule.ordered(log)

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        start, end, validation, test, facts = self.rule.cut(log)
        users = np.random.default_rng(self.seed).permutation(np.flatnonzero(end > start))
        left_out = users[max(1, round(self.share * len(users))) :]
        end = end.copy()
        end[left_out] = start[left_out]
        return start, end, validation, test, facts | {"left_out_users": len(left_out)}
