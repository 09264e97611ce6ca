"""The bootstrap over users and seeds against variances that are known."""

from __future__ import annotations

import numpy as np
import pytest
from _two_way import two_way_comparison


def test_means_and_difference() -> None:
    first, second = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3) + 0.5
    found = two_way_comparison(first, second)
    assert found["first"] == 2.5 and found["second"] == 3.0
    assert found["difference"]["low"] == found["difference"]["high"] == found["difference"]["mean"] == 0.5
    assert found["p_value"] == 1 / 2000
    assert two_way_comparison(first, first)["p_value"] == 1.0


@pytest.mark.parametrize(("of_users", "of_seeds"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.4)])
def test_the_interval_holds_what_users_and_seeds_add(of_users: float, of_seeds: float) -> None:
    """An effect of a user is the same with all seeds: more seeds do not make it known better."""
    random = np.random.default_rng(0)
    seeds, users = 20, 300
    effect = of_users * random.normal(size=(1, users)) + of_seeds * random.normal(size=(seeds, 1))
    found = two_way_comparison(np.zeros((seeds, users)), effect)["difference"]
    by_user, by_seed = effect.mean(0), effect.mean(1)
    error = (by_user.var() / users + by_seed.var() / seeds) ** 0.5
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found["mean"] == pytest.approx(effect.mean())
