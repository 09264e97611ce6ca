"""A/A tests: each p-value is that of the test itself, and good metrics pass while bad ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.simulation.statistics import aa_test as module
from recsys.simulation.statistics.aa_test import aa_test
from recsys.simulation.statistics.effect import ExperimentError, ratio_effect, welch


@pytest.mark.parametrize("ratio", [False, True])
def test_each_p_value_is_that_of_the_test_on_its_arms(ratio: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    shown = random.poisson(5, 300) + 1.0
    clicks = random.binomial(shown.astype(int), 0.3).astype(float)
    found = aa_test(clicks, shown if ratio else None, assignments=7, share=0.3, seed=5)
    treated = np.random.default_rng(5).random((7, 300)) < 0.3
    for row, p in zip(treated, found.p_values, strict=True):
        if ratio:
            expected = ratio_effect(clicks[~row], shown[~row], clicks[row], shown[row]).p_value
        else:
            expected = welch(clicks[~row], clicks[row]).p_value
        assert p == pytest.approx(expected)
    monkeypatch.setattr(module, "BUDGET_BYTES", 16 * 300 * 2)
    again = aa_test(clicks, shown if ratio else None, assignments=7, share=0.3, seed=5)
    assert again.p_values == pytest.approx(found.p_values)


def test_a_metric_with_enough_users_is_calibrated() -> None:
    random = np.random.default_rng(1)
    found = aa_test(random.gamma(1, 1, 2000), level=0.1)
    assert found.calibrated and found.uniform > 0.001
    assert found.low < found.rejected < found.high


def test_one_user_who_makes_the_metric_spoils_the_test() -> None:
    values = np.random.default_rng(2).gamma(1, 1, 200)
    values[0] = 2000
    found = aa_test(values)
    assert not found.calibrated and found.uniform < 1e-6


def test_what_cannot_be_assigned_is_refused() -> None:
    with pytest.raises(ExperimentError, match="2 numerators for 3"):
        aa_test([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ExperimentError, match="without two users"):
        aa_test([1.0, 2.0, 3.0])
    with pytest.raises(ExperimentError, match="the same value"):
        aa_test(np.ones(100))
    with pytest.raises(ExperimentError, match="the same value"):
        aa_test(0.1 * np.arange(1, 101), np.arange(1, 101))
    with pytest.raises(ExperimentError, match="must not be negative"):
        aa_test([1.0, 2.0, 3.0, 4.0], [1.0, -1.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="share lies between"):
        aa_test([1.0, 2.0, 3.0], share=1.0)
