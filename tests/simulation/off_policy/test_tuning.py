"""Parameters that are chosen from the log are near the best that could have been chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.simulation.off_policy.inverse_propensity import ClippedIPW
from recsys.simulation.off_policy.planted_rounds import PlantedRounds
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import Rounds, rounds_of
from recsys.simulation.off_policy.shrunk_weights import OptimisticShrinkageDR, SwitchDR
from recsys.simulation.off_policy.terms import Terms
from recsys.simulation.off_policy.tuning import MSEBound, MSEEstimate, Rule, Slope, Tuned
from tests.simulation.off_policy.worlds import world

GRID = (0.5, 1.0, 2.0, 5.0, 20.0, math.inf)


def heavy() -> PlantedRounds:
    """A world with a few very large weights."""
    planted = world(seed=4)
    logging = planted.logging**3
    return PlantedRounds(planted.click, logging / logging.sum(1, keepdims=True), planted.target)


@pytest.mark.parametrize(
    ("family", "rule"),
    [(SwitchDR, MSEEstimate()), (OptimisticShrinkageDR, MSEEstimate()), (ClippedIPW, MSEBound())],
)
def test_the_choice_is_near_the_best_of_the_grid(family: type, rule: Rule) -> None:
    planted = heavy()
    errors: list[list[float]] = [[] for _ in range(len(GRID) + 1)]
    for seed in range(60):
        log = planted.draw(500, seed)
        rounds = rounds_of(log, planted.policy(log), CrossFitted.of(MeanByAction(), log, seed=seed))
        for index, value in enumerate(GRID):
            errors[index].append(family(value)(rounds).value - planted.value)
        errors[-1].append(Tuned(family, rule, GRID)(rounds).value - planted.value)
    *of_grid, chosen = (float(np.mean(np.square(each))) for each in errors)
    assert chosen < 0.7 * max(of_grid), (chosen, of_grid)
    assert chosen < 3 * min(of_grid), (chosen, of_grid)
    assert chosen < 0.95 * of_grid[-1], (chosen, of_grid)  # which changes no weight, and has no bias


def test_biases_by_hand() -> None:
    """Four rounds and two estimators: what their errors are is small enough to be written down."""
    weight, reward = np.array([0.0, 0.5, 0.5, 3.0]), np.array([1.0, 0.0, 1.0, 1.0])
    zero = np.zeros(4)
    rounds = Rounds(reward, weight, zero, zero, np.arange(4))
    variances = {clip: np.var(np.minimum(weight, clip) * reward, ddof=1) / 4 for clip in (3.0, 2.0, 0.5)}
    lost = {clip: max(0.0, 1 - np.minimum(weight, clip).mean()) for clip in variances}
    direct = {clip: ((weight - np.minimum(weight, clip)) * reward).mean() for clip in variances}
    family = [ClippedIPW(clip) for clip in variances]
    for rule, bias in ((MSEEstimate(), direct), (MSEBound(), lost)):
        errors = [variances[clip] + bias[clip] ** 2 for clip in variances]
        assert rule.choose(family, rounds) == int(np.argmin(errors))


def test_slope_by_hand() -> None:
    class Said:
        name, models_rewards = "said", False

        def __init__(self, value: float, half: float) -> None:
            self.value, self.half = value, half

        def weights(self, weight: np.ndarray) -> np.ndarray:
            return weight

        def __call__(self, rounds: Rounds) -> Terms:
            # Two rounds, so that the normal half-width is `half` at the level of the rule.
            z = 2.3939797998185
            return Terms(np.array([self.value - self.half / z, self.value + self.half / z]))

    zero = np.zeros(2)
    rounds = Rounds(zero, zero, zero, zero, np.arange(2))
    rule = Slope(0.05)  # three estimators: 1 - 0.05 / 6 of the normal law
    agree = [Said(1.0, 0.5), Said(1.2, 0.2), Said(1.5, 0.1)]
    # |1 - 1.5| <= 1.449 x .5 + .1, and |1.2 - 1.5| <= 1.449 x .2 + .1, the wider interval being that of less bias.
    assert rule.choose(agree, rounds) == 2
    assert rule.choose([*agree[:2], Said(1.58, 0.1)], rounds) == 2
    assert rule.choose([*agree[:2], Said(1.6, 0.1)], rounds) == 1
    assert rule.choose([agree[0], Said(2.0, 0.1), Said(1.0, 0.1)], rounds) == 0


def test_the_grid_is_of_the_weights() -> None:
    planted = heavy()
    log = planted.draw(300, 0)
    rounds = rounds_of(log, planted.policy(log))
    parameter, estimator = Tuned(SwitchDR, MSEBound()).chosen(rounds)
    assert rounds.weight.min() <= parameter <= 1000 * rounds.weight.max()
    assert estimator.name == Tuned(SwitchDR).name == "switch-DR"
    alone = Rounds(rounds.reward, 0 * rounds.weight, rounds.predicted, rounds.expected, rounds.unit)
    assert Tuned(ClippedIPW, Slope())(alone).value == 0.0
