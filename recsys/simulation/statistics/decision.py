"""From effects to one sentence: ship, do not ship, or go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from recsys.evaluation.multiplicity import holm
from recsys.simulation.statistics.effect import ExperimentError, check_level
from recsys.simulation.statistics.sample_ratio import SUSPICIOUS

Verdict = Literal["ship", "do not ship", "go on"]


class Evidence(Protocol):
    """What is known of one metric: an `Effect` at the planned end, or a `SequentialEffect` at any look."""

    def p_greater(self, *, relative: float = 0.0, absolute: float = 0.0) -> float:
        """One-sided p-value of `treatment > (1 + relative) * control + absolute`."""
        ...

    def p_less(self, *, relative: float = 0.0, absolute: float = 0.0) -> float:
        """Likewise of less."""
        ...


@dataclass(frozen=True)
class Goal:
    """A metric that the treatment is meant to improve.

    Attributes:
        evidence: of the metric.
        lower_is_better: such as for a latency.
    """

    evidence: Evidence
    lower_is_better: bool = False


@dataclass(frozen=True)
class Guardrail:
    """A metric that must not get worse by a margin or more.

    Attributes:
        evidence: of the metric.
        relative: loss that can be borne, as a share of the control.
        absolute: loss that can be borne, in units of the metric; added where both are given.
        lower_is_better: such as for a latency.
    """

    evidence: Evidence
    relative: float = 0.0
    absolute: float = 0.0
    lower_is_better: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        verdict: "ship", "do not ship" or "go on".
        sentence: the verdict with its reasons, for people.
        better: adjusted p-value that each goal is better.
        worse: adjusted p-value that each goal is worse, and each guardrail by more than its margin.
        not_worse: p-value that each guardrail is not worse by its margin.
    """

    verdict: Verdict
    sentence: str
    better: Mapping[str, float]
    worse: Mapping[str, float]
    not_worse: Mapping[str, float]


def decide(
    goals: Mapping[str, Goal],
    guardrails: Mapping[str, Guardrail],
    *,
    level: float = 0.05,
    split_p: float = 1.0,
    ended: bool = False,
) -> Decision:
    """Ships what is shown to improve a goal and shown to harm no guardrail.

    A treatment without any gain is shipped with a chance of `level / 2` at most: claims of goals are adjusted by Holm,
    one-sided at half of the level, as a two-sided test is. One that loses the margin of a guardrail or more is shipped
    with a chance of `level` at most: all guardrails must hold, so that each is tested at the whole level and no
    adjustment is due. Stopping for harm is again by any one of them, and adjusted by Holm.

    Args:
        goals: by name, one at least.
        guardrails: by name.
        level: chance of an error, as above.
        split_p: of `sample_ratio_mismatch`, or of the sequential one; below .001 the experiment is void.
        ended: no more users will come: what is not shown by now is not shipped. A test of fixed horizon is read once.

    Raises:
        ExperimentError: there is no goal, a guardrail has no margin, or a name stands twice.

    Source:
        Schultzberg, Ankargren and Frånberg, "Risk-aware product decisions in A/B tests with multiple metrics", 2024.

    Example:
        >>> from recsys.simulation.statistics.effect import welch
        >>> clicks = welch([1.0, 2.0, 3.0, 2.0], [4.0, 5.0, 6.0, 4.0])
        >>> decide({"clicks": Goal(clicks)}, {}).sentence
        'ship: clicks is better (p = 0.0025)'
    """
    check_level(level)
    _check(goals, guardrails)
    better = _adjusted({name: _gain(goal, 0.0, 0.0) for name, goal in goals.items()})
    harm = {name: _loss(goal, 0.0, 0.0) for name, goal in goals.items()}
    harm |= {name: _loss(rail, rail.relative, rail.absolute) for name, rail in guardrails.items()}
    worse = _adjusted(harm)
    not_worse = {name: _gain(rail, rail.relative, rail.absolute) for name, rail in guardrails.items()}

    def decided(verdict: Verdict, reasons: Sequence[str]) -> Decision:
        return Decision(verdict, f"{verdict}: {'; '.join(reasons)}", better, worse, not_worse)

    if not split_p >= SUSPICIOUS:  # which NaN is not
        return decided(
            "do not ship", [f"users did not come in the planned shares (p = {split_p:.2g}), nothing can be read"]
        )
    if harmed := [name for name, p in worse.items() if p <= level / 2]:
        return decided("do not ship", [_worse(name, worse[name], name in guardrails) for name in harmed])
    gained = [name for name, p in better.items() if p <= level / 2]
    open_rails = [name for name, p in not_worse.items() if p > level]
    if gained and not open_rails:
        reasons = [f"{name} is better (p = {better[name]:.2g})" for name in gained]
        return decided(
            "ship", [*reasons, *([f"not worse by its margin is {', '.join(guardrails)}"] if guardrails else [])]
        )
    reasons = [] if gained else [f"no gain is shown in {', '.join(f'{n} (p = {p:.2g})' for n, p in better.items())}"]
    reasons += [f"{name} may be worse by its margin (p = {not_worse[name]:.2g})" for name in open_rails]
    return decided("do not ship" if ended else "go on", reasons)


def _gain(metric: Goal | Guardrail, relative: float, absolute: float) -> float:
    """p-value of a treatment better than the control less the margin."""
    if metric.lower_is_better:
        return metric.evidence.p_less(relative=relative, absolute=absolute)
    return metric.evidence.p_greater(relative=-relative, absolute=-absolute)


def _loss(metric: Goal | Guardrail, relative: float, absolute: float) -> float:
    """p-value of a treatment worse than the control less the margin."""
    if metric.lower_is_better:
        return metric.evidence.p_greater(relative=relative, absolute=absolute)
    return metric.evidence.p_less(relative=-relative, absolute=-absolute)


def _adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def _worse(name: str, p: float, guardrail: bool) -> str:
    return f"{name} is worse {'by more than its margin ' if guardrail else ''}(p = {p:.2g})"


def _check(goals: Mapping[str, Goal], guardrails: Mapping[str, Guardrail]) -> None:
    if not goals:
        raise ExperimentError("a decision needs a goal: a metric that the treatment is meant to improve")
    if both := goals.keys() & guardrails.keys():
        raise ExperimentError(f"{', '.join(sorted(both))}: a metric is a goal or a guardrail, not both")
    for name, rail in guardrails.items():
        if min(rail.relative, rail.absolute) < 0 or not rail.relative + rail.absolute > 0:
            raise ExperimentError(
                f"guardrail {name}: give the loss that can be borne, `relative` or `absolute`, above 0"
            )
