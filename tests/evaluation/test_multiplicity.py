from __future__ import annotations

import itertools

import numpy as np
import pytest

from recsys.evaluation.multiplicity import holm


def rejected_by_the_book(p_values: list[float], level: float) -> set[int]:
    """Holm's procedure as it is told: the smallest first, until one is above the level over those that are left."""
    found: set[int] = set()
    for place in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if p_values[place] > level / (len(p_values) - len(found)):
            break
        found.add(place)
    return found


def test_adjusted_values_reject_what_the_procedure_rejects() -> None:
    random = np.random.default_rng(0)
    for size, level in itertools.product((1, 2, 3, 7), (0.01, 0.05, 0.2)):
        for _ in range(50):
            p_values = (random.random(size) ** 3).tolist()
            adjusted = holm(p_values)
            assert {place for place, p in enumerate(adjusted) if p <= level} == rejected_by_the_book(p_values, level)


def test_a_false_claim_among_many_is_as_rare_as_one() -> None:
    random = np.random.default_rng(1)
    runs, level = 4000, 0.1
    false = np.mean([min(holm(random.random(6).tolist())) <= level for _ in range(runs)])
    expected = 1 - (1 - level / 6) ** 6
    assert abs(false - expected) < 4 * np.sqrt(expected * (1 - expected) / runs)


@pytest.mark.parametrize("wrong", [[1.2], [-0.1], [float("nan")]])
def test_what_is_no_p_value_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(wrong)
