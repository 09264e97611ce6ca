from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from recsys.candidates.drift import CELLS, cells_of, jensen_shannon, least_of, population_stability, quantile

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(floats, min_size=2, max_size=30))
def test_cells_rise_with_scores_and_are_narrow(scores: list[float]) -> None:
    values = np.sort(np.array(scores, dtype=np.float32))
    cells = cells_of(values)
    assert (np.diff(cells) >= 0).all() and cells.min() >= 0 and cells.max() < CELLS
    for value, cell in zip(values, cells, strict=True):
        assert least_of(int(cell)) <= value
        if abs(value) > np.finfo(np.float32).tiny:
            assert value - least_of(int(cell)) <= abs(value) * 2**-8


def histogram(scores: list[float]) -> np.ndarray:
    return np.bincount(cells_of(np.array(scores, dtype=np.float32)), minlength=CELLS)


def test_population_stability_of_four_bins_by_hand() -> None:
    before, after = histogram([1, 2, 4, 8] * 10), histogram([1] * 4 + [2] * 8 + [4] * 12 + [8] * 16)
    p, q = [10.5 / 42] * 4, [n / 42 for n in (4.5, 8.5, 12.5, 16.5)]
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert population_stability(before, after, bins=4) == pytest.approx(by_hand)
    assert population_stability(before, before) == 0
    # what lies outside all scores before counts for the last bin that has any
    assert population_stability(before, histogram([1, 2, 4, 100] * 10), bins=4) == pytest.approx(0)
    assert population_stability(before, histogram([0.5, 0.7, 0.2, 0.9] * 10), bins=4) > 1


def test_bins_hold_equal_shares_of_the_reference() -> None:
    random = np.random.default_rng(0)
    before, after = random.normal(size=200_000), random.normal(0.3, 1, size=200_000)
    found = population_stability(histogram(before.tolist()), histogram(after.tolist()))
    edges = np.quantile(before, np.linspace(0, 1, 11)[1:-1])
    p, q = (np.bincount(np.searchsorted(edges, part), minlength=10) / len(part) for part in (before, after))
    assert found == pytest.approx(float(((q - p) * np.log(q / p)).sum()), rel=0.02)


def test_no_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="no reference"):
        population_stability(histogram([]), histogram([1.0]))
    with pytest.raises(ValueError, match="without counts"):
        jensen_shannon(pd.Series({"a": 0}), pd.Series({"a": 1}))


@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
    st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any),
)
def test_divergence_agrees_with_scipy(p: list[int], q: list[int]) -> None:
    before, after = pd.Series(p, index=list("abcd")), pd.Series(q, index=list("abcd"))
    found = jensen_shannon(before[before > 0], after[after > 0].iloc[::-1])
    assert found == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)


def test_quantiles() -> None:
    counts = histogram([-4, -1, 0, 1, 256])
    assert [quantile(counts, share) for share in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(
        [-4, -1, 0, 1, 256], rel=2**-8
    )
    assert math.isnan(quantile(histogram([]), 0.5))
