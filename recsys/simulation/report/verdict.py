"""What a comparison comes to, in the words of people."""

from __future__ import annotations

from recsys.documents.document import Answer, Block, Figures
from recsys.simulation.comparison.compare import ChallengerResult, Comparison
from recsys.simulation.report.words import between, chance, days, number, percent
from recsys.simulation.statistics.sample_ratio import SUSPICIOUS


def answer_of(comparison: Comparison, name: str) -> Answer:
    """The verdict on a challenger in a sentence, and what it rests on."""
    if not comparison.split_p >= SUSPICIOUS:
        return Answer(
            "bad",
            f"Nothing can be read of {name}: users did not come to the arms in the planned shares.",
            f"The chance of that is {chance(comparison.split_p)} by luck. Find out who is missing, and repeat it.",
        )
    result = comparison.challengers[name]
    goal = result.metrics[comparison.goal]
    lift = goal.lift
    size = percent(abs(lift.value))
    if lift.low > 0:
        gain = f"{name} gets {size} more {comparison.goal} per visit than {comparison.control}"
    elif lift.high < 0:
        gain = f"{name} gets {size} fewer {comparison.goal} per visit than {comparison.control}"
    else:
        gain = f"no difference in {comparison.goal} per visit between {name} and {comparison.control} is shown"
    right = percent(1 - comparison.level)
    sure = f"In this simulated world the truth lies between {between(lift)}, a range that is right {right} of the time."
    if result.verdict == "ship":
        return Answer("good", f"Ship it: {gain}.", sure)
    if lift.high < 0 or any(metric_lost(result, guardrail) for guardrail in guardrails(result)):
        lost = [guardrail for guardrail in guardrails(result) if metric_lost(result, guardrail)]
        why = f", and {', '.join(lost)} fell by more than allowed" if lost else ""
        return Answer("bad", f"Do not ship it: {gain}{why}.", sure)
    if lift.low > 0:
        unsure = [
            guardrail for guardrail in guardrails(result) if result.metrics[guardrail].p_better > comparison.level
        ]
        return Answer(
            "open",
            f"Not yet: {gain}, but {_joined(unsure)} might have fallen by more than allowed.",
            f"{sure} The experiment was too small to rule a loss in {_joined(unsure)} out.",
        )
    return Answer("open", f"Not yet: {gain}.", f"{sure} The experiment may have been too small.")


def figures_of(comparison: Comparison, name: str) -> Block:
    """The few numbers that stand beside the verdict."""
    result = comparison.challengers[name]
    goal = result.metrics[comparison.goal]
    entries = [
        (
            "Lift",
            percent(goal.lift.value, signed=True),
            f"between {between(goal.lift)}",
        ),
        (
            f"{comparison.goal.capitalize()} per visit",
            f"{number(goal.control, 2)} \u2192 {number(goal.treatment, 2)}",
            f"{comparison.control} \u2192 {name}",
        ),
    ]
    if result.live is not None:
        first = result.live.tests[0]
        entries.append(
            (
                "A live test would take",
                days(first.days),
                f"with {number(result.live.visitors)} visitors a day, to show this lift "
                f"{percent(result.live.power)} of the time",
            )
        )
    alarms = comparison.equal.at_end
    entries.append(
        (
            "False alarms",
            percent(alarms.share),
            f"of {comparison.equal.assignments:,} experiments without any difference; "
            f"planned: {percent(comparison.equal.level)}",
        )
    )
    return Figures(tuple(entries))


def guardrails(result: ChallengerResult) -> list[str]:
    """Names of the guardrails."""
    return [name for name, metric in result.metrics.items() if metric.margin is not None]


def metric_lost(result: ChallengerResult, name: str) -> bool:
    """Whether a guardrail fell by more than its margin."""
    metric = result.metrics[name]
    return metric.margin is not None and metric.lift.high < -metric.margin


def _joined(names: list[str]) -> str:
    return " and ".join(names)
