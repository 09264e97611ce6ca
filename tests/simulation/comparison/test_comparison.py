"""An experiment finds what is planted in its world, and equal arms raise alarms as planned."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.simulation.comparison.compare import Comparison, compare_arms, slices_of
from recsys.simulation.comparison.equal_arms import equal_arms
from recsys.simulation.comparison.live_test import plan_live_test
from recsys.simulation.comparison.looks import anytime_lift, effect_per_visit, looks, per_visit
from recsys.simulation.comparison.plan import Plan, PlanError
from recsys.simulation.comparison.population import Population, PopulationError
from recsys.simulation.statistics.effect import ExperimentError, welch
from recsys.simulation.statistics.planning import required_users
from recsys.simulation.statistics.sequential import SequentialEffect
from recsys.simulation.world.experiment import Design, simulate
from recsys.simulation.world.latent_model import LatentModel
from recsys.simulation.world.outcome import Outcome
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.preferences import planted
from recsys.simulation.world.visits import Visits
from recsys.simulation.world.world import World

USERS = 1500
DESIGN = Design(days=6, before=4, length=5)


def population(users: int = USERS) -> Population:
    truth = planted(users, 60, agreement=0.2, level=-2.5)
    world = World.of(truth, Visits.gamma(users))
    return Population(world, torch.arange(users + 1), torch.arange(users + 1) > 0.8 * users)


def arms(people: Population) -> dict[str, Policy]:
    truth = people.world.preferences
    popular = LatentModel.of(truth, preference=0, popularity=1)
    return {"popular": Policy(popular), "truth": Policy(LatentModel.of(truth))}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    people = population()
    return simulate(people.world, arms(people), DESIGN)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    people = population()
    return compare_arms(people, arms(people), DESIGN, Plan(assignments=200))


def test_the_better_arm_is_found_and_the_truth_lies_in_the_range(comparison: Comparison) -> None:
    found = comparison.challengers["truth"]
    lift = found.metrics["clicks"].lift
    assert lift.low > 0 and found.true_lift is not None
    assert lift.low < found.true_lift < lift.high
    assert found.conclusive_day is not None and found.naive_day is not None
    assert found.naive_day <= found.conclusive_day
    assert sum(comparison.users.values()) <= USERS and comparison.split_p > 1e-4
    assert all(look.anytime.low <= look.fixed.low and look.anytime.high >= look.fixed.high for look in found.looks)


def test_all_of_it_is_json(comparison: Comparison) -> None:
    content = json.loads(json.dumps(comparison.as_json(), allow_nan=False))
    assert content["challengers"]["truth"]["looks"][-1]["day"] == DESIGN.days
    assert set(content["challengers"]["truth"]["slices"]) == set(slices_of(population()))


def test_several_challengers_share_the_level() -> None:
    people = population(600)
    three = arms(people) | {"again": arms(people)["popular"]}
    found = compare_arms(people, three, DESIGN, Plan(level=0.04, assignments=50))
    assert found.level == found.equal.level == 0.02 and list(found.challengers) == ["truth", "again"]


def test_per_visit_is_the_ratio_of_sums(outcome: Outcome) -> None:
    values = per_visit(outcome, "truth", "clicks")
    assert values.mean() == pytest.approx(outcome.of("truth").sum() / outcome.of("truth", "sessions").sum())
    some = np.arange(USERS + 1) % 2 == 0
    kept = some[outcome.users("truth")]
    ratio = outcome.of("truth")[kept].sum() / outcome.of("truth", "sessions")[kept].sum()
    assert per_visit(outcome, "truth", "clicks", None, some).mean() == pytest.approx(ratio)


def test_the_anytime_lift_ends_where_its_p_value_says(outcome: Outcome) -> None:
    effect = effect_per_visit(outcome, ("popular", "truth"), "clicks", 0.05, None)
    mixture = 0.01
    lift = anytime_lift(effect, mixture, 0.05)
    # At an end, the two-sided interval of the difference from that multiple of the control just touches zero.
    for end in (lift.low, lift.high):
        moved = replace(effect, difference=effect.treatment - (1 + end) * effect.control)
        moved = replace(moved, control_error=(1 + end) * effect.control_error)
        ends = SequentialEffect(moved, mixture).interval(0.05)
        assert min(abs(ends[0]), abs(ends[1])) < 1e-6
    assert lift.low < effect.lift_low and lift.high > effect.lift_high


def test_a_control_that_may_be_zero_has_no_last_end() -> None:
    effect = welch([0.0] * 50 + [1.0], [1.0, 0.0] * 40)
    assert anytime_lift(effect, 0.01, 0.05).high == math.inf


def test_equal_arms_raise_alarms_as_planned() -> None:
    people = population()
    alone = simulate(people.world, {"popular": arms(people)["popular"]}, replace(DESIGN, days=10))
    mixture = looks(simulate(people.world, arms(people), DESIGN), ("popular", "truth"), "clicks", 0.05)[1]
    found = equal_arms(alone, "clicks", mixture, share=0.5, assignments=2000)
    assert found.at_end.low < 0.05 < found.at_end.high
    assert found.anytime.low < 0.05  # at most
    assert found.naive.share > 1.5 * found.at_end.share
    # By hand, without the pre-period and for one look: Welch's test of random halves.
    users = alone.users("popular")
    values = per_visit(alone, "popular", "clicks")
    random = np.random.default_rng(1)
    p = [welch(values[half], values[~half]).p_value for half in random.random((400, len(users))) < 0.5]
    assert abs(np.mean(np.array(p) <= 0.05) - found.at_end.share) < 0.05


def test_live_tests_take_until_enough_users_have_come(outcome: Outcome) -> None:
    effect = effect_per_visit(outcome, ("popular", "truth"), "clicks", 0.05, None)
    visits, spreads = population().world.visits, [math.nan, 3.0, 2.5]
    plan = plan_live_test(effect, spreads, visits, power=0.8)
    curve = visits.expected_users(365).numpy()
    for test, part in zip(plan.tests, (1, 0.5, 0.25), strict=True):
        expected = None
        for day in range(2, 366):
            sd = spreads[min(day, 3) - 1]
            if curve[day - 1] >= sum(required_users(part * effect.difference, sd)):
                expected = day
                break
        assert test.days == expected and test.lift == pytest.approx(part * effect.lift)
    more = plan_live_test(effect, spreads, visits, power=0.8, visitors=100 * plan.visitors)
    assert more.visitors == pytest.approx(100 * plan.visitors)
    assert [test.days for test in more.tests] <= [test.days or 999 for test in plan.tests]


def test_the_level_of_clicks_is_that_of_the_policy() -> None:
    people = population(400)
    policy = arms(people)["popular"]
    level = people.with_level(policy, 0.7, 5)
    users = torch.arange(1, 401)
    lists = policy.rank(users, people.world.histories, 5).items
    clicks = level.world.expected_clicks(users, lists).sum(1)
    weight = people.world.visits.rate[1:]
    assert float((weight * clicks).sum() / weight.sum()) == pytest.approx(0.7, abs=1e-3)
    with pytest.raises(PopulationError, match="clicks a visit, not 9"):
        people.with_level(policy, 9.0, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"goal": "sales"}, "`sales` is no metric"),
        ({"guardrails": {"clicks": 0.1}}, "cannot be a guardrail too"),
        ({"guardrails": {"conversions": 0.0}}, "share that may be lost"),
        ({"power": 0.01}, "power lies between"),
        ({"assignments": 0}, "assignments must be"),
        ({"live_visitors": -1.0}, "live_visitors must be"),
    ],
)
def test_plans_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan(**settings)


def test_too_few_users_are_refused() -> None:
    people = population(150)
    with pytest.raises(ExperimentError, match="more users a day, or more days"):
        compare_arms(people, arms(people), DESIGN, Plan(assignments=10))
