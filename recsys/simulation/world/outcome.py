"""What an experiment leaves: sessions as they stream by, and sums of each user by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sessions:
    """S sessions with lists of L items.

    Attributes:
        day: `[S]` int64, from 0; days of the pre-period are negative.
        user: `[S]` int64.
        arm: `[S]` int64, number of the arm whose policy chose the list.
        items: `[S, L]` int64, 0 where a list is shorter.
        propensity: `[S, L]` float64, chance of each item given those above it (see `rules`).
        clicks: `[S, L]` bool.
        conversions: `[S, L]` bool, only where clicks are.
        chance: `[S, L]` float32, the true chance of each click, novelty with it.
        beside: `[S, L]` float64 by name, what other policies would have shown these items with.
    """

    day: Tensor
    user: Tensor
    arm: Tensor
    items: Tensor
    propensity: Tensor
    clicks: Tensor
    conversions: Tensor
    chance: Tensor
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    def where(self, chosen: Tensor) -> Sessions:
        """The sessions that `chosen` `[S]` bool, or numbers of sessions, picks."""
        picked = {entry.name: getattr(self, entry.name)[chosen] for entry in fields(self) if entry.name != "beside"}
        return Sessions(**picked, beside={name: values[chosen] for name, values in self.beside.items()})

    @classmethod
    def cat(cls, parts: Sequence[Sessions]) -> Sessions:
        """One after the other.

        Raises:
            ValueError: there are no parts.
        """
        if not parts:
            raise ValueError("there are no sessions to put together")
        names = [entry.name for entry in fields(cls) if entry.name != "beside"]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        beside = {name: torch.cat([part.beside[name] for part in parts]) for name in parts[0].beside}
        return cls(**joined, beside=beside)


METRICS = ("sessions", "clicks", "conversions", "expected_clicks")
"""What is summed by user. The last are the true chances of clicks of the shown lists: clicks without their noise."""


@dataclass(frozen=True)
class Outcome:
    """Sums of every user, for the statistics of a test.

    Memory: 16 bytes for each user and day.

    Attributes:
        arms: names; the first is the control.
        arm: `[n_users + 1]` int64, number of each user's arm; -1 takes no part, and row 0 is nobody.
        sums: `[days, n_users + 1]` float32 by metric.
        before: the same of the pre-period, in which everybody has the control.
        sessions: what was kept; None: nothing.
    """

    arms: tuple[str, ...]
    arm: NDArray[np.int64]
    sums: dict[str, NDArray[np.float32]]
    before: dict[str, NDArray[np.float32]]
    sessions: Sessions | None = None

    @property
    def days(self) -> int:
        """Days of the experiment, without the pre-period."""
        return len(self.sums["sessions"])

    def users(self, arm: str, days: int | None = None) -> NDArray[np.int64]:
        """`[n]` ids of the users of an arm who came on the first `days` days (None: on any)."""
        came = self.sums["sessions"][:days].any(0)
        return np.flatnonzero((self.arm == self._number(arm)) & came)

    def of(self, arm: str, metric: str = "clicks", days: int | None = None) -> NDArray[np.float64]:
        """`[n]` sums of a metric over the first `days` days, of the users that `users` gives.

        Args:
            arm: its name.
            metric: one of `METRICS`.
            days: None: all.
        """
        return self.sums[metric][:days, self.users(arm, days)].sum(0, dtype=np.float64)

    def covariate(self, arm: str, metric: str = "clicks", days: int | None = None) -> NDArray[np.float64]:
        """`[n]` sums of the metric over the pre-period, of the same users."""
        return self.before[metric][:, self.users(arm, days)].sum(0, dtype=np.float64)

    def counts(self, days: int | None = None) -> list[int]:
        """Users of each arm who came, for the check of the sample ratio."""
        return [len(self.users(arm, days)) for arm in self.arms]

    def per_session(self, arm: str, metric: str = "clicks", days: slice = slice(None)) -> float:
        """Mean of a metric over the sessions of an arm, on some days."""
        mine = self.arm == self._number(arm)
        of_days = (self.sums[name][days][:, mine].sum(dtype=np.float64) for name in (metric, "sessions"))
        total, sessions = of_days
        return float(total / sessions) if sessions else float("nan")

    def _number(self, arm: str) -> int:
        if arm not in self.arms:
            raise ValueError(f"there is no arm `{arm}`; there are {', '.join(self.arms)}")
        return self.arms.index(arm)
