"""Mismatches of assignment: against the binomial, against a product of predictions, and against false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recsys.simulation.statistics.effect import ExperimentError
from recsys.simulation.statistics.sample_ratio import sample_ratio_mismatch, sequential_sample_ratio_mismatch


def test_two_arms_agree_with_the_binomial_test() -> None:
    for counts, share in (((5100, 4900), 0.5), ((9000, 1050), 0.9)):
        expected = stats.binomtest(counts[0], sum(counts), share).pvalue
        assert sample_ratio_mismatch(counts, (share, 1 - share)) == pytest.approx(expected, rel=0.05)
    assert sample_ratio_mismatch([300, 200, 100], [3, 2, 1]) == 1.0


def test_the_bayes_factor_is_the_product_of_predictions_user_by_user() -> None:
    random, shares, concentration = np.random.default_rng(0), np.array([0.2, 0.3, 0.5]), 7.0
    arms = random.choice(3, 40, p=[0.5, 0.2, 0.3])
    counts, factor, expected = np.zeros(3), 1.0, []
    for arm in arms:
        factor *= (concentration * shares[arm] + counts[arm]) / (concentration + counts.sum()) / shares[arm]
        counts[arm] += 1
        expected.append(min(1.0, 1 / factor))
    looks = (arms[:, None] == np.arange(3)).cumsum(0)
    found = sequential_sample_ratio_mismatch(looks, shares, concentration)
    assert found == pytest.approx(np.minimum.accumulate(expected))


def test_planned_shares_are_suspected_as_seldom_as_said_at_every_user_and_others_soon() -> None:
    random, runs, users, level = np.random.default_rng(1), 600, 3000, 0.05
    alarms, naive, found = 0, 0, 0
    for run in range(runs):
        treated = (random.random(users) < 0.5).cumsum()
        looks = np.column_stack([np.arange(1, users + 1) - treated, treated])
        alarms += sequential_sample_ratio_mismatch(looks)[-1] <= level
        z = (looks[99:, 0] - looks[99:, 1]) / np.sqrt(looks[99:].sum(1))
        naive += (np.abs(z) > 1.96).any()
        if run < 50:
            biased = (random.random(users) < 0.58).cumsum()
            found += (
                sequential_sample_ratio_mismatch(np.column_stack([np.arange(1, users + 1) - biased, biased]))[-1]
                <= level
            )
    assert alarms / runs <= level + 3 * math.sqrt(level * (1 - level) / runs)
    assert naive / runs > 0.25 and found == 50


def test_what_is_no_count_is_refused() -> None:
    with pytest.raises(ExperimentError, match="one positive share for each arm"):
        sample_ratio_mismatch([10, 20, 30])
    with pytest.raises(ExperimentError, match="there must be some"):
        sample_ratio_mismatch([0, 0])
    with pytest.raises(ExperimentError, match="never fall"):
        sequential_sample_ratio_mismatch([[5, 5], [4, 6]])
    with pytest.raises(ValueError, match="concentration"):
        sequential_sample_ratio_mismatch([[5, 5]], concentration=0)
