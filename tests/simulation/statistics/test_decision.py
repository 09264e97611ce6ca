"""Decisions: each verdict for its reason, and wrong ones as seldom as said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.simulation.statistics.decision import Goal, Guardrail, decide
from recsys.simulation.statistics.effect import Effect, ExperimentError, welch
from recsys.simulation.statistics.sequential import SequentialEffect, mixture_variance


def arms(seed: int, effect: float, users: int = 400) -> Effect:
    random = np.random.default_rng(seed)
    return welch(random.normal(10, 1, users), random.normal(10 + effect, 1, users))


NOTHING, GAIN, LOSS = arms(0, 0.0), arms(1, 0.5), arms(2, -0.5)


def test_a_gain_without_harm_is_shipped() -> None:
    found = decide({"clicks": Goal(GAIN)}, {"revenue": Guardrail(NOTHING, relative=0.05)})
    assert found.verdict == "ship"
    assert (
        found.sentence.startswith("ship: clicks is better (p = ")
        and "not worse by its margin is revenue" in found.sentence
    )


def test_a_loss_beyond_the_margin_is_not_shipped_and_one_within_it_is() -> None:
    tight = decide({"clicks": Goal(GAIN)}, {"revenue": Guardrail(LOSS, absolute=0.1)})
    assert tight.verdict == "do not ship" and "revenue is worse by more than its margin" in tight.sentence
    assert decide({"clicks": Goal(GAIN)}, {"revenue": Guardrail(LOSS, absolute=1.0)}).verdict == "ship"
    assert decide({"clicks": Goal(GAIN)}, {"revenue": Guardrail(LOSS, relative=0.1)}).verdict == "ship"


def test_without_a_gain_one_goes_on_until_the_end() -> None:
    goals, rails = {"clicks": Goal(NOTHING)}, {"revenue": Guardrail(arms(3, 0.0, 20), relative=0.001)}
    found = decide(goals, rails)
    assert found.verdict == "go on"
    assert "no gain is shown in clicks" in found.sentence and "revenue may be worse by its margin" in found.sentence
    assert decide(goals, rails, ended=True).verdict == "do not ship"
    assert decide({"clicks": Goal(GAIN)}, rails).sentence.count(";") == 0


def test_a_goal_that_is_worse_and_a_wrong_split_end_it() -> None:
    assert decide({"clicks": Goal(LOSS)}, {}).sentence.startswith("do not ship: clicks is worse (p = ")
    void = decide({"clicks": Goal(GAIN)}, {}, split_p=1e-5)
    assert void.verdict == "do not ship" and "planned shares" in void.sentence
    assert decide({"clicks": Goal(GAIN)}, {}, split_p=math.nan).verdict == "do not ship"


def test_lower_may_be_better() -> None:
    assert decide({"latency": Goal(LOSS, lower_is_better=True)}, {}).verdict == "ship"
    slow = {"latency": Guardrail(GAIN, relative=0.01, lower_is_better=True)}
    assert decide({"clicks": Goal(GAIN)}, slow).verdict == "do not ship"
    assert decide({"clicks": Goal(GAIN)}, {"latency": Guardrail(GAIN, 0.1, lower_is_better=True)}).verdict == "ship"


def test_a_treatment_without_gain_is_shipped_and_stopped_as_seldom_as_said() -> None:
    """Three goals and two guardrails without an effect: either error by any of them is as rare as one would be."""
    random, runs, level = np.random.default_rng(4), 1500, 0.1
    verdicts, alone = [], []
    for _ in range(runs):
        effects = [welch(random.normal(1, 1, 60), random.normal(1, 1, 60)) for _ in range(5)]
        goals = {f"goal {n}": Goal(effect) for n, effect in enumerate(effects[:3])}
        rails = {f"rail {n}": Guardrail(effect, absolute=2.0) for n, effect in enumerate(effects[3:])}
        verdicts.append(decide(goals, rails, level=level).verdict)
        alone.append(decide({"goal": goals["goal 0"]}, {}, level=level).verdict)
    error = 4 * math.sqrt(level / 2 / runs)
    assert abs(verdicts.count("ship") / runs - level / 2) < error
    assert verdicts.count("do not ship") / runs < level / 2 + error
    assert abs(alone.count("do not ship") / runs - level / 2) < error


def test_a_guardrail_at_its_margin_is_passed_as_seldom_as_said() -> None:
    random, runs, level, shipped = np.random.default_rng(5), 1500, 0.1, 0
    for _ in range(runs):
        rail = welch(random.normal(10, 1, 60), random.normal(9.5, 1, 60))
        shipped += decide({"g": Goal(GAIN)}, {"r": Guardrail(rail, relative=0.05)}, level=level).verdict == "ship"
    assert abs(shipped / runs - level) < 4 * math.sqrt(level * (1 - level) / runs)


def test_a_sequential_decision_may_be_asked_for_daily() -> None:
    random, runs, days, level = np.random.default_rng(6), 300, 15, 0.1
    mixture = mixture_variance(2 / 1500)
    wrong = plain = right = 0
    for _ in range(runs):
        control, treatment = random.normal(1, 1, (2, 100 * days))
        looks = [welch(control[: 100 * day], treatment[: 100 * day]) for day in range(1, days + 1)]
        wrong += any(
            decide({"g": Goal(SequentialEffect(e, mixture))}, {}, level=level).verdict != "go on" for e in looks
        )
        plain += any(decide({"g": Goal(e)}, {}, level=level).verdict != "go on" for e in looks)
        shifted = welch(control, treatment + 0.25)
        right += decide({"g": Goal(SequentialEffect(shifted, mixture))}, {}, level=level).verdict == "ship"
    assert wrong / runs <= level and plain / runs > 2 * level and right / runs > 0.95


@pytest.mark.parametrize(
    ("goals", "rails", "message"),
    [
        ({}, {}, "needs a goal"),
        ({"a": Goal(GAIN)}, {"a": Guardrail(GAIN, 0.1)}, "a goal or a guardrail"),
        ({"a": Goal(GAIN)}, {"b": Guardrail(GAIN)}, "guardrail b: give the loss"),
    ],
)
def test_what_is_no_plan_is_refused(goals: dict[str, Goal], rails: dict[str, Guardrail], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        decide(goals, rails)
