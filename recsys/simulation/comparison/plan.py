"""What is asked of a comparison, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from recsys.simulation.statistics.effect import check_level

GOALS = ("clicks", "conversions")
"""Metrics that a challenger may be meant to improve, per visit."""


class PlanError(ValueError):
    """A comparison that cannot be run as it is asked for."""


@dataclass(frozen=True)
class Plan:
    """How arms are compared.

    Attributes:
        goal: metric per visit that a challenger is meant to improve.
        guardrails: metrics per visit that must not get worse, with the share of the control that may be lost.
        level: chance that a challenger without any effect is called different, over all challengers.
        power: chance that a live test must have to show what was found.
        assignments: tests of equal arms.
        live_visitors: different users a day of a live test; None: as many as are simulated.

    Raises:
        PlanError: a metric is unknown or stands twice, or a number makes no sense.
    """

    goal: str = "clicks"
    guardrails: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({"conversions": 0.05}))
    level: float = 0.05
    power: float = 0.8
    assignments: int = 1000
    live_visitors: float | None = None

    def __post_init__(self) -> None:
        check_level(self.level)
        for name in (self.goal, *self.guardrails):
            if name not in GOALS:
                raise PlanError(f"`{name}` is no metric; there are {', '.join(GOALS)}")
        if self.goal in self.guardrails:
            raise PlanError(f"`{self.goal}` is the goal, and cannot be a guardrail too")
        for name, margin in self.guardrails.items():
            if not 0 < margin < 1:
                raise PlanError(f"guardrail `{name}`: give the share that may be lost, such as 0.05, not {margin}")
        if not self.level < self.power < 1:
            raise PlanError(f"power lies between the level and 1, such as 0.8, not {self.power}")
        if self.assignments < 1:
            raise PlanError(f"assignments must be at least 1, not {self.assignments}")
        if self.live_visitors is not None and not self.live_visitors > 0:
            raise PlanError(f"live_visitors must be positive, not {self.live_visitors}")
