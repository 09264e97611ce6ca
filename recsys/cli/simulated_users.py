"""The users of a simulation: as many as are wanted, with tastes of a log or planted ones, and how they behave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from recsys.cli.arms import Arm
from recsys.simulation.comparison.population import PopulationError

if TYPE_CHECKING:
    from recsys.features.event_log import EventLog
    from recsys.simulation.comparison.population import Population
    from recsys.simulation.world.policy import Policy
    from recsys.simulation.world.preferences import Preferences
    from recsys.unbiased.click_models import ClickModel

_STEPS = 60
NOVELTY_HALF_LIFE = 7.0
"""Days after which half of the charm of a new policy is left."""


@dataclass(frozen=True)
class Users:
    """How users are simulated.

    Attributes:
        clicks_per_visit: that the champion gets of them; what your own shop knows.
        exposure: how much of an item's popularity is taken for having been shown more: 0 none of it, 1 all of it.
        planted: tastes are drawn at random instead of learned from the log, so that no trained model knows them. How
            far what is popular in the log is what everybody likes: from -1, the reverse, over 0, unrelated, to 1.
        new_share: share of users who have no history and are known to no model.
        visits: mean visits a day and user.
        click_model: how they go through a list: by `position` alone, from the last click on (`browsing`), from the top
            to the first click (`cascade`), or clicking on what is irrelevant because it stands high (`trust`).
        noise: chance of a click on what is examined and not relevant.
        drift: angle in radians by which tastes turn each day.
        novelty: lift of clicks on the first day for a challenger's being new; half of it is left after a week.
    """

    clicks_per_visit: float = 1.0
    exposure: float = 0.5
    planted: float | None = None
    new_share: float = 0.1
    visits: float = 0.3
    click_model: Literal["position", "browsing", "cascade", "trust"] = "position"
    noise: float = 0.0
    drift: float = 0.0
    novelty: float = 0.0

    def make(self, log: EventLog, arms: Sequence[Arm], per_day: int | None, length: int, seed: int) -> Made:
        """Makes the users, and sets their clicks by the first arm.

        Args:
            log: whose users they are like.
            arms: the champion first.
            per_day: visitors a day; None: as many users as the log has.
            length: of the lists.
            seed: of all draws.

        Raises:
            PopulationError: a setting makes no sense.
        """
        from recsys.simulation.comparison.population import Population
        from recsys.simulation.world.visits import Visits
        from recsys.simulation.world.world import Novelty

        self._check()
        preferences, facts = self._tastes(log, seed)
        users = None
        if per_day is not None:
            coming = float(Visits.gamma(10_000, self.visits).expected_users(1)[0]) / 10_000
            users = math.ceil(per_day / coming)
        made = Population.of_log(log, preferences, users=users, new_share=self.new_share, visits=self.visits, seed=seed)
        novelty = Novelty(self.novelty, NOVELTY_HALF_LIFE) if self.novelty else None
        world = replace(made.world, clicks=self._clicks(), noise=self.noise, novelty=novelty)
        made = replace(made, world=world)
        made = made.with_level(arms[0].policy(made, log), self.clicks_per_visit, length)
        facts |= {"users": made.world.n_users, "of_the_log": log.n_users, "visitors_per_day": made.visitors}
        return Made(self, made, {arm.name: arm.policy(made, log) for arm in arms}, facts)

    def _check(self) -> None:
        for name in ("clicks_per_visit", "visits"):
            if not getattr(self, name) > 0:
                raise PopulationError(f"--users.{name} must be positive, not {getattr(self, name)}")
        for name in ("exposure", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise PopulationError(f"--users.{name} lies between 0 and 1, not {getattr(self, name)}")
        if self.planted is not None and not -1 <= self.planted <= 1:
            raise PopulationError(f"--users.planted is a correlation between -1 and 1, not {self.planted}")
        for name in ("drift", "novelty"):
            if getattr(self, name) < 0:
                raise PopulationError(f"--users.{name} must not be negative, as {getattr(self, name)} is")

    def _tastes(self, log: EventLog, seed: int) -> tuple[Preferences, dict[str, float]]:
        """Preferences of the users of the log, and how well they tell its events."""
        from recsys.simulation.world.consumption import consumption_pairs
        from recsys.simulation.world.fitted import fit_pairs, popularity_of
        from recsys.simulation.world.preferences import planted

        popularity = popularity_of(log)
        if self.planted is not None:
            truth = planted(log.n_users, log.n_items, agreement=self.planted, drift=self.drift, seed=seed)
            return truth.as_popular_as(popularity), {}
        pairs = consumption_pairs(log, exposure=self.exposure, seed=seed)
        fit = fit_pairs(pairs, popularity, log.n_users, steps=_STEPS, drift=self.drift, seed=seed)
        return fit.preferences, {
            "log_loss": fit.log_loss,
            "base_log_loss": fit.base_log_loss,
            "calibration_error": fit.calibration_error,
        }

    def _clicks(self) -> ClickModel:
        from recsys.unbiased.click_models import Cascade, PositionBased, TrustBias, UserBrowsing

        models = {"position": PositionBased, "browsing": UserBrowsing, "cascade": Cascade, "trust": TrustBias}
        return models[self.click_model]()


@dataclass(frozen=True)
class Made:
    """Users and the policies that they meet.

    Attributes:
        settings: by which they were made.
        population: the users.
        policies: of the arms, by name.
        facts: how many there are, and how well the log is told by their tastes, if these are learned.
    """

    settings: Users
    population: Population
    policies: Mapping[str, Policy]
    facts: Mapping[str, float]
