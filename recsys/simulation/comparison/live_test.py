"""How long a live test would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.simulation.statistics.effect import Effect
from recsys.simulation.statistics.planning import Users, minimum_detectable_effect, required_users
from recsys.simulation.world.visits import Visits

MOST_DAYS = 365


@dataclass(frozen=True)
class LiveTest:
    """What a live test needs to show a lift.

    Attributes:
        lift: to be shown.
        users: in both arms together.
        days: until they have come; None: more than a year.
    """

    lift: float
    users: int
    days: int | None


@dataclass(frozen=True)
class LivePlan:
    """Live tests of several lifts.

    Attributes:
        visitors: different users a day.
        power: chance to show the lift.
        smallest: lift that the simulated test itself could show with this chance.
        tests: by falling lift, that which was found first.
    """

    visitors: float
    power: float
    smallest: float
    tests: list[LiveTest]


def plan_live_test(
    effect: Effect, spreads: Sequence[float], visits: Visits, *, power: float, visitors: float | None = None
) -> LivePlan:
    """Plans a test of two equal arms for the lift that was found, for half of it, and for a quarter.

    The spread over users falls with their visits: it is that of the simulated test on the same day, and of its last day
    where the live one is longer, so that days are then rather too many.

    Args:
        effect: at the end of the simulated test, adjusted as the live one will be; its difference is not 0, and its
            level is that of the live test.
        spreads: of the metric over users at the end of each day; NaN where too few had come.
        visits: how often users come.
        power: chance to show it.
        visitors: different users a day; None: as many as `visits` has. Other numbers are of another crowd with the same
            habits.
    """
    curve = visits.expected_users(MOST_DAYS).numpy()
    scale = 1.0 if visitors is None else visitors / curve[0]
    tests = []
    for part in (1.0, 0.5, 0.25):
        needed = [
            math.inf
            if math.isnan(spread)
            else sum(required_users(part * effect.difference, spread, power=power, level=effect.level))
            for spread in spreads
        ]
        days = next((day for day in range(1, MOST_DAYS + 1) if scale * curve[day - 1] >= _on(needed, day)), None)
        tests.append(LiveTest(part * effect.lift, int(_on(needed, days or MOST_DAYS)), days))
    here = Users(effect.n_control, effect.n_treatment)
    smallest = minimum_detectable_effect(spreads[-1], here, power=power, level=effect.level) / effect.control
    return LivePlan(float(scale * curve[0]), power, smallest, tests)


def _on(needed: Sequence[float], day: int) -> float:
    return needed[min(day, len(needed)) - 1]
