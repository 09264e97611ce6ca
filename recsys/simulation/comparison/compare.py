"""Runs an experiment between a champion and challengers in a world, and analyses it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.simulation.comparison.equal_arms import EqualArms, equal_arms
from recsys.simulation.comparison.live_test import LivePlan, plan_live_test
from recsys.simulation.comparison.looks import (
    Lift,
    Look,
    effect_per_visit,
    first_conclusive,
    looks,
    per_visit,
    slice_lift,
)
from recsys.simulation.comparison.plan import Plan
from recsys.simulation.comparison.population import Population
from recsys.simulation.statistics.decision import Goal, Guardrail, decide
from recsys.simulation.statistics.effect import Effect
from recsys.simulation.statistics.sample_ratio import sample_ratio_mismatch
from recsys.simulation.world.experiment import Design, simulate
from recsys.simulation.world.outcome import Outcome
from recsys.simulation.world.policy import Policy


@dataclass(frozen=True)
class MetricResult:
    """A metric per visit of control and challenger.

    Attributes:
        control: mean per visit.
        treatment: likewise.
        lift: adjusted by the pre-period, at the planned end.
        margin: share of the control that may be lost; None: it is the goal.
        p_better: one-sided p-value of a gain; of a guardrail, of losing less than the margin.
    """

    control: float
    treatment: float
    lift: Lift
    margin: float | None
    p_better: float


@dataclass(frozen=True)
class SliceResult:
    """The goal among some users.

    Attributes:
        users: of control and challenger.
        lift: with an interval at the level divided by the number of slices; None: too few users.
    """

    users: tuple[int, int]
    lift: Lift | None


@dataclass(frozen=True)
class ChallengerResult:
    """What the experiment says of a challenger.

    Attributes:
        verdict: "ship", "do not ship" or "go on".
        sentence: the verdict with its reasons, as the statistics give it.
        metrics: by name, the goal first.
        looks: at the goal, a day each.
        conclusive_day: the first day on which the intervals that hold on all days exclude zero; None: no day.
        naive_day: likewise of daily intervals.
        variance_reduction: share of the variance of the goal that the pre-period explained.
        slices: by name.
        true_lift: had all users had the champion, and all of them the challenger: of clicks by their true chances. None
            where the goal is another.
        live: plan of a live test for the lift that was found; None where nothing was found.
    """

    verdict: str
    sentence: str
    metrics: dict[str, MetricResult]
    looks: list[Look]
    conclusive_day: int | None
    naive_day: int | None
    variance_reduction: float
    slices: dict[str, SliceResult]
    true_lift: float | None
    live: LivePlan | None


@dataclass(frozen=True)
class Comparison:
    """A champion and its challengers.

    Attributes:
        control: name of the champion.
        goal: metric per visit.
        level: chance of an error of each challenger's test.
        days: of the experiment.
        before: days of the pre-period.
        length: of the lists.
        users: that came, by arm.
        visits: of them, by arm.
        visitors: different users a day, of all arms.
        split_p: p-value that users came in equal shares.
        equal: tests of equal arms under the champion.
        challengers: by name.
    """

    control: str
    goal: str
    level: float
    days: int
    before: int
    length: int
    users: dict[str, int]
    visits: dict[str, int]
    visitors: float
    split_p: float
    equal: EqualArms
    challengers: dict[str, ChallengerResult]

    def as_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`; None stands for what is not finite."""
        content: dict[str, Any] = finite(asdict(self))
        return content


def compare_arms(
    population: Population,
    arms: Mapping[str, Policy],
    design: Design,
    plan: Plan,
    progress: Callable[[str], None] = lambda stage: None,
) -> Comparison:
    """Runs the experiment, and equal arms beside it.

    Args:
        population: the users.
        arms: policies by name; the first is the champion.
        design: with a pre-period.
        plan: what is compared.
        progress: told what is done next.

    Raises:
        ExperimentError: too few users came.
        ValueError: see `simulate`.
    """
    control, *others = arms
    level = plan.level / len(others)
    progress(f"{', '.join(arms)} before {population.world.n_users:,} users, {design.before} + {design.days} days")
    outcome = simulate(population.world, arms, design)
    alone = {}
    for name in arms:
        progress(f"{name} for everybody")
        alone[name] = simulate(population.world, *_for_everybody(arms, name, design))
    progress("analysis")
    values = {name: of_all.per_session(name, "expected_clicks") for name, of_all in alone.items()}
    split_p = sample_ratio_mismatch(outcome.counts(), [1 / len(arms)] * len(arms))
    judge = _Judge(population, outcome, control, plan, level, split_p)
    found, mixtures = {}, []
    for name in others:
        days, mixture = looks(outcome, (control, name), plan.goal, level)
        mixtures.append(mixture)
        true = values[name] / values[control] - 1 if plan.goal == "clicks" else None
        found[name] = judge.result(name, days, true)
    equal = equal_arms(
        alone[control],
        plan.goal,
        mixtures[0],
        share=1 / len(arms),
        level=level,
        assignments=plan.assignments,
        seed=design.seed,
    )
    return Comparison(
        control=control,
        goal=plan.goal,
        level=level,
        days=design.days,
        before=design.before,
        length=design.length,
        users={name: len(outcome.users(name)) for name in arms},
        visits={name: int(outcome.of(name, "sessions").sum()) for name in arms},
        visitors=population.visitors,
        split_p=split_p,
        equal=equal,
        challengers=found,
    )


def _for_everybody(arms: Mapping[str, Policy], name: str, design: Design) -> tuple[dict[str, Policy], Design]:
    """An experiment in which everybody has an arm, after a pre-period under the champion."""
    control = next(iter(arms))
    if name == control:
        return {name: arms[name]}, replace(design, shares=None)
    return {control: arms[control], name: arms[name]}, replace(design, shares=[0, 1])


@dataclass(frozen=True)
class _Judge:
    """Says of each challenger what the experiment found."""

    population: Population
    outcome: Outcome
    control: str
    plan: Plan
    level: float
    split_p: float

    def result(self, challenger: str, days: list[Look], true: float | None) -> ChallengerResult:
        """At the planned end, after looks on all days."""
        plan, arms = self.plan, (self.control, challenger)
        effects = {
            name: effect_per_visit(self.outcome, arms, name, self.level, None) for name in (plan.goal, *plan.guardrails)
        }
        goal = effects[plan.goal]
        decision = decide(
            {plan.goal: Goal(goal)},
            {name: Guardrail(effects[name], relative=margin) for name, margin in plan.guardrails.items()},
            level=self.level,
            split_p=self.split_p,
            ended=True,
        )
        p_values = {**decision.better, **decision.not_worse}
        live = None
        if goal.difference:
            spread, visits = [look.spread for look in days], self.population.world.visits
            live = plan_live_test(goal, spread, visits, power=plan.power, visitors=plan.live_visitors)
        return ChallengerResult(
            verdict=decision.verdict,
            sentence=decision.sentence,
            metrics={
                name: _metric(effect, plan.guardrails.get(name), p_values[name]) for name, effect in effects.items()
            },
            looks=days,
            conclusive_day=first_conclusive(days, anytime=True),
            naive_day=first_conclusive(days, anytime=False),
            variance_reduction=self._variance_reduction(goal, arms),
            slices=self._slices(arms),
            true_lift=true,
            live=live,
        )

    def _slices(self, arms: tuple[str, str]) -> dict[str, SliceResult]:
        groups = slices_of(self.population)
        found = {}
        for name, users in groups.items():
            control, treatment = (int(users[self.outcome.users(arm)].sum()) for arm in arms)
            lift = slice_lift(self.outcome, arms, self.plan.goal, self.level / len(groups), users)
            found[name] = SliceResult((control, treatment), lift)
        return found

    def _variance_reduction(self, goal: Effect, arms: tuple[str, str]) -> float:
        plain = [per_visit(self.outcome, arm, self.plan.goal) for arm in arms]
        raw = sum(float(values.var(ddof=1)) / len(values) for values in plain)
        return 1 - (goal.control_error**2 + goal.treatment_error**2) / raw


def slices_of(population: Population) -> dict[str, NDArray[np.bool_]]:
    """Users `[n_users + 1]` by what is known of them: none of it, little, much."""
    lengths = population.world.histories.lengths.double()
    known = ~population.new
    known[0] = False
    low, high = torch.quantile(lengths[known], torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return {
        "new users": population.new.numpy(),
        f"light users (up to {low:.0f} events)": (known & (lengths <= low)).numpy(),
        f"heavy users (from {high:.0f} events)": (known & (lengths >= high)).numpy(),
    }


def _metric(effect: Effect, margin: float | None, p: float) -> MetricResult:
    lift = Lift(effect.lift, effect.lift_low, effect.lift_high)
    return MetricResult(effect.control, effect.treatment, lift, margin, p)


def finite(value: Any) -> Any:
    """A copy of JSON-like data in which numbers that are not finite, which JSON does not know, are None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
