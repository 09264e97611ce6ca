"""What the report of a simulation says beside its results: who the users are, and what is assumed of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recsys import __version__
from recsys.cli.arms import Arm
from recsys.cli.simulated_users import NOVELTY_HALF_LIFE, Made
from recsys.documents.document import Code
from recsys.simulation.report.comparison_page import Context
from recsys.simulation.report.words import number, percent

if TYPE_CHECKING:
    from recsys.documents.document import Line
    from recsys.features.event_log import EventLog

_CLICKS = {
    "position": "A click depends on the place in the list and on the item, not on the other items: a list of ten alike "
    "is not punished.",
    "browsing": "How far users look depends on the place in the list and on how far above the last click was; a list "
    "of ten alike is not punished.",
    "cascade": "Users read a list from the top and leave it with their first click, so that lists get one click at "
    "most.",
    "trust": "Users trust the order of a list: near the top they click on what is irrelevant too.",
}


def context_of(made: Made, log: EventLog, arms: Sequence[Arm], days: int, seed: int) -> Context:
    """What the report says of the users.

    Args:
        made: the users.
        log: whose users they are like.
        arms: that they meet.
        days: of the experiment.
        seed: of all draws.
    """
    facts: dict[str, Line] = {arm.name: (arm.described,) for arm in arms}
    facts |= {
        "log": (
            f"{log.schema.name}, {log.n_users:,} users, {log.n_items:,} items, fingerprint ",
            Code(log.fingerprint),
        ),
        "users": (f"{made.facts['users']:,}, {number(made.facts['visitors_per_day'])} visitors a day",),
        "tastes": (_tastes(made),),
        "seed": (str(seed),),
        "made by": (f"recsys {__version__}",),
    }
    return Context(log.schema.name, assumptions(made, log, days), facts)


def _tastes(made: Made) -> str:
    if made.settings.planted is not None:
        return f"planted at random; popularity and what everybody likes correlate by {made.settings.planted:g}"
    found = made.facts
    return (
        f"tell events from other items with a log loss of {number(found['log_loss'])} (guessing: "
        f"{number(found['base_log_loss'])}), their chances are off by {percent(found['calibration_error'])} on average"
    )


def assumptions(made: Made, log: EventLog, days: int) -> list[str]:
    """What the simulated users are taken to be, a sentence each."""
    settings, users = made.settings, made.population.world.n_users
    if settings.planted is None:
        said = [
            f"Tastes are learned from what was chosen in {log.schema.name}. The log does not say what was shown and "
            f"left: {percent(settings.exposure)} of an item's popularity is taken for having been shown more. Another "
            "share gives another world; repeat this with --users.exposure 0 and 1.",
            "Models that learn tastes as the simulator does, by factors of users and items, may look better than they "
            "are, and so may one that has learned from the same log by heart.",
        ]
    else:
        said = [
            f"Tastes are planted at random, and have nothing to do with what users did in {log.schema.name}. No "
            "trained model knows them: this judges how an experiment is analysed, and no model."
        ]
    said.append(_CLICKS[settings.click_model])
    if settings.noise:
        said.append(f"{percent(settings.noise)} of what is examined and irrelevant is clicked all the same.")
    stay = f"turn by {settings.drift:g} radians a day" if settings.drift else f"stay for {days} days"
    unsaid = "or of habits" if settings.novelty else "of habits, or of the charm of what is new"
    said.append(
        f"Users come as often, whatever they are shown, and their tastes {stay}. Nothing is said of coming back, "
        f"{unsaid}."
    )
    if settings.novelty:
        said.append(
            f"Challengers get {percent(settings.novelty)} more clicks on the first day for being new, half as many "
            f"more after {NOVELTY_HALF_LIFE:.0f} days: the lift of the last days is nearer to what stays."
        )
    said += [
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
