"""A log that cannot judge a policy is found out before anything is reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.simulation.off_policy.diagnostics import Limits, diagnose, refusals
from recsys.simulation.off_policy.planted_rounds import PlantedRounds
from recsys.simulation.off_policy.rounds import Rounds, rounds_of
from tests.simulation.off_policy.worlds import world

WORLD = world()


def rounds(planted: PlantedRounds, n: int = 4000) -> Rounds:
    log = planted.draw(n, 0)
    return rounds_of(log, planted.policy(log))


def test_numbers_by_hand() -> None:
    found = diagnose(rounds(WORLD))
    weight = rounds(WORLD).weight
    assert found.effective_rounds == pytest.approx(sum(weight) ** 2 / sum(weight**2))
    assert found.max_weight == max(weight) and found.units == found.rounds == 4000
    assert found.tail_share == pytest.approx(sum(sorted(weight)[-40:]) / sum(weight))
    assert found.mean_weight_low < 1 < found.mean_weight_high
    half = 1.959964 * np.std(weight, ddof=1) / np.sqrt(4000)
    assert found.mean_weight_high - found.mean_weight == pytest.approx(half, rel=1e-6)
    assert not refusals(found, Limits())


def test_support_that_is_lacking_refuses() -> None:
    logging = WORLD.logging.copy()
    logging[:, 2] = 0
    planted = replace(WORLD, logging=logging / logging.sum(1, keepdims=True))
    found = diagnose(rounds(planted))
    assert found.unsupported == pytest.approx(WORLD.target[:, 2].mean(), abs=0.02)
    said = refusals(found, Limits())
    assert any("never logged" in sentence for sentence in said)
    assert not refusals(found, Limits(unsupported=1.0, mean_weight_p=0.0))


def test_support_that_is_lacking_for_some_users_shows_in_the_mean_weight() -> None:
    logging = WORLD.logging.copy()
    logging[0, :2] = 0
    planted = replace(WORLD, logging=logging / logging.sum(1, keepdims=True))
    found = diagnose(rounds(planted))
    assert found.unsupported == 0.0
    assert found.mean_weight == pytest.approx(1 - WORLD.target[0, :2].sum() / 3, abs=0.05)
    assert any("mean weight" in sentence for sentence in refusals(found, Limits()))


def test_propensities_that_are_wrong_refuse() -> None:
    right = rounds(WORLD)
    found = diagnose(replace(right, weight=right.weight * 1.2))
    assert found.mean_weight == pytest.approx(1.2 * right.weight.mean())
    assert any("mean weight" in sentence for sentence in refusals(found, Limits()))


def test_a_policy_that_is_too_far_refuses() -> None:
    far = np.zeros(4000)
    far[:10] = 400.0
    found = diagnose(replace(rounds(WORLD), weight=far))
    assert found.effective_rounds == pytest.approx(10) and found.tail_share == 1.0
    assert any("as much as 10.0" in sentence for sentence in refusals(found, Limits()))
    nothing = diagnose(replace(rounds(WORLD), weight=np.zeros(4000)))
    assert len(refusals(nothing, Limits())) == 2


def test_the_logging_policy_itself_has_nothing_wrong() -> None:
    log = WORLD.draw(100, 0)
    found = diagnose(rounds_of(log, WORLD.policy(log, WORLD.logging)))
    assert found.effective_rounds == pytest.approx(100) and found.mean_weight == pytest.approx(1)
    assert not refusals(found, Limits())
