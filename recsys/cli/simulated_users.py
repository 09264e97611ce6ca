"""The users of a simulation: fitted to a log, as many as are wanted, and what is assumed of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys.cli.arms import Arm
from recsys.simulation.comparison.population import PopulationError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from recsys.documents.document import Line
    from recsys.features.event_log import EventLog
    from recsys.simulation.comparison.population import Population
    from recsys.simulation.report.comparison_page import Context
    from recsys.simulation.world.policy import Policy

_STEPS = 60


@dataclass(frozen=True)
class Users:
    """How users are simulated.

    Attributes:
        clicks_per_visit: that the champion gets of them; what your own shop knows.
        exposure: how much of an item's popularity is taken for having been shown more: 0 none of it, 1 all of it.
        new_share: share of users who have no history and are known to no model.
        visits: mean visits a day and user.
    """

    clicks_per_visit: float = 1.0
    exposure: float = 0.5
    new_share: float = 0.1
    visits: float = 0.3

    def make(self, log: EventLog, arms: Sequence[Arm], per_day: int | None, length: int, seed: int) -> Made:
        """Fits the users, and sets their clicks by the first arm.

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
        from recsys.simulation.world.consumption import consumption_pairs
        from recsys.simulation.world.fitted import fit_pairs, popularity_of
        from recsys.simulation.world.visits import Visits

        for name in ("clicks_per_visit", "visits"):
            if not getattr(self, name) > 0:
                raise PopulationError(f"--users.{name} must be positive, not {getattr(self, name)}")
        if not 0 <= self.exposure <= 1:
            raise PopulationError(f"--users.exposure lies between 0 and 1, not {self.exposure}")
        pairs = consumption_pairs(log, exposure=self.exposure, seed=seed)
        fit = fit_pairs(pairs, popularity_of(log), log.n_users, steps=_STEPS, seed=seed)
        users = None
        if per_day is not None:
            coming = float(Visits.gamma(10_000, self.visits).expected_users(1)[0]) / 10_000
            users = math.ceil(per_day / coming)
        made = Population.of_log(
            log, fit.preferences, users=users, new_share=self.new_share, visits=self.visits, seed=seed
        )
        champion = arms[0].policy(made, log)
        made = made.with_level(champion, self.clicks_per_visit, length)
        facts = {
            "users": made.world.n_users,
            "of_the_log": log.n_users,
            "visitors_per_day": made.visitors,
            "log_loss": fit.log_loss,
            "base_log_loss": fit.base_log_loss,
            "calibration_error": fit.calibration_error,
        }
        return Made(self, made, {arm.name: arm.policy(made, log) for arm in arms}, facts)


@dataclass(frozen=True)
class Made:
    """Users and the policies that they meet.

    Attributes:
        settings: by which they were made.
        population: the users.
        policies: of the arms, by name.
        facts: how many there are, and how well the log is told by their tastes.
    """

    settings: Users
    population: Population
    policies: Mapping[str, Policy]
    facts: Mapping[str, float]

    def context(self, log: EventLog, arms: Sequence[Arm], given: Namespace) -> Context:
        """What the report says of them."""
        from recsys import __version__
        from recsys.documents.document import Code
        from recsys.simulation.report.comparison_page import Context
        from recsys.simulation.report.words import number, percent

        facts: dict[str, Line] = {arm.name: (arm.described,) for arm in arms}
        facts |= {
            "log": (
                f"{log.schema.name}, {log.n_users:,} users, {log.n_items:,} items, fingerprint ",
                Code(log.fingerprint),
            ),
            "users": (f"{self.facts['users']:,}, {number(self.facts['visitors_per_day'])} visitors a day",),
            "tastes": (
                f"tell events from other items with a log loss of {number(self.facts['log_loss'])} (guessing: "
                f"{number(self.facts['base_log_loss'])}), their chances are off by "
                f"{percent(self.facts['calibration_error'])} on average",
            ),
            "seed": (str(given.seed),),
            "made by": (f"recsys {__version__}",),
        }
        return Context(log.schema.name, assumptions(self, log, given.days), facts)


def assumptions(made: Made, log: EventLog, days: int) -> list[str]:
    """What the simulated users are taken to be, a sentence each."""
    from recsys.simulation.report.words import number, percent

    settings, users = made.settings, made.population.world.n_users
    said = [
        f"Tastes are learned from what was chosen in {log.schema.name}. The log does not say what was shown and left: "
        f"{percent(settings.exposure)} of an item's popularity is taken for having been shown more. Another share "
        "gives another world; repeat this with --users.exposure 0 and 1.",
        "Models that learn tastes as the simulator does, by factors of users and items, may look better than they are, "
        "and so may one that has learned from the same log by heart.",
        "A click depends on the place in the list and on the item, not on the other items: a list of ten alike is not "
        "punished.",
        f"Users come as often, whatever they are shown, and their tastes stay for {days} days. Nothing is said of "
        "coming back, of habits, or of the charm of what is new.",
        f"The champion is set to {number(settings.clicks_per_visit)} clicks a visit. Lifts depend on that less than "
        "absolute numbers do.",
        f"{percent(settings.new_share)} of the users are new: they have somebody's taste and nobody's history.",
    ]
    if users > log.n_users:
        said.append(
            f"{users:,} users have the tastes of {log.n_users:,}: ranges are right for this crowd, and somewhat too "
            "narrow for another one."
        )
    if log.schema.of("query") or log.schema.events.action is not None:
        said.append(
            "Histories were shown to the models without searches and kinds of events: a model that reads these may do "
            "better live."
        )
    said.append("Speed, costs, stock and rules of the shop are not simulated.")
    return said
