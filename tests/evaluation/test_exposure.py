from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recsys.evaluation.exposure import (
    GROUPS,
    exposure_metrics,
    group_of_decile,
    group_of_events,
    group_shares,
    popularity_deciles,
)


def gini_by_pairs(exposure: list[int]) -> float:
    """Mean absolute difference of all pairs over twice the mean."""
    n = len(exposure)
    return sum(abs(a - b) for a in exposure for b in exposure) / (2 * n * sum(exposure))


def test_exposure_metrics_equal_the_formulas_by_hand() -> None:
    random = np.random.default_rng(0)
    counts = np.array([0, 40, 0, 7, 7, 1, 22, 3, 3, 2, 90, 15, 4])
    ranked = np.stack([random.permutation(np.arange(1, 13))[:6] for _ in range(5)])
    ranked[2, 3:] = 0
    got = exposure_metrics(torch.from_numpy(ranked), counts, [2, 6])
    group = [GROUPS[i] for i in group_of_decile(popularity_deciles(counts))]
    for k in (2, 6):
        shown = [int(item) for row in ranked for item in row[:k] if item]
        assert got[f"Coverage@{k}"] == pytest.approx(len(set(shown)) / 12)
        bits = [-math.log2(max(counts[item], 1) / counts.sum()) for item in shown]
        assert got[f"Novelty@{k}"] == pytest.approx(sum(bits) / len(bits))
        assert got[f"Gini@{k}"] == pytest.approx(gini_by_pairs([shown.count(item) for item in range(1, 13)]))
        for name in GROUPS:
            share = sum(group[item] == name for item in shown) / len(shown)
            assert got[f"{name.capitalize()}@{k}"] == pytest.approx(share)


def test_extremes_of_concentration() -> None:
    counts = np.array([0, *range(100, 0, -1)])
    one = exposure_metrics(torch.full((50, 1), 3), counts, [1])
    everything = exposure_metrics(torch.arange(1, 101)[:, None], counts, [1])
    assert (one["Coverage@1"], one["Gini@1"]) == pytest.approx((0.01, 0.99))
    assert (everything["Coverage@1"], everything["Gini@1"]) == pytest.approx((1.0, 0.0))
    assert (everything["Head@1"], everything["Torso@1"], everything["Tail@1"]) == pytest.approx((0.2, 0.3, 0.5))


def test_nothing_recommended_has_no_share() -> None:
    nothing = exposure_metrics(torch.zeros(3, 2, dtype=torch.int64), np.array([0, 1, 2]), [2])
    assert nothing["Coverage@2"] == 0
    assert math.isnan(nothing["Novelty@2"])


def test_deciles_hold_equal_numbers_of_trained_items() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(0, 6, 1001)
    counts[0] = 0
    deciles = popularity_deciles(counts)
    assert ((deciles == 0) == (counts == 0)).all()
    sizes = np.bincount(deciles)[1:]
    assert len(sizes) == 10 and sizes.max() - sizes.min() <= 1
    lowest = [counts[deciles == d].min() for d in range(1, 11)]
    highest = [counts[deciles == d].max() for d in range(1, 11)]
    assert all(low >= high for low, high in zip(lowest[:-1], highest[1:], strict=True))


def test_groups_by_events_are_drawn_by_share_and_number() -> None:
    random = np.random.default_rng(1)
    counts = np.append(0, random.geometric(0.05, 400) - 1)
    groups = np.array(GROUPS)[group_of_events(counts)]
    known = counts > 0
    assert (groups == "cold").tolist() == (~known).tolist()
    assert (groups == "tail").tolist() == (known & (counts <= 5)).tolist()
    assert (groups == "head").sum() == round(0.1 * known.sum())
    assert counts[groups == "head"].min() >= counts[groups == "torso"].max()
    assert (group_of_events(np.array([0, 3, 1, 2])) == [0, 3, 3, 3]).all(), "few events are few, however popular"


def test_shares_of_groups_are_counted_and_short_lists_are_no_recommendations() -> None:
    groups = torch.from_numpy(group_of_events(np.array([0, 90, 50, 3, 0]), head=0.4).astype(np.int64))
    shares = group_shares(torch.tensor([[1, 2, 3], [1, 4, 0], [3, 0, 0]]), groups)
    assert shares == pytest.approx({"cold": 1 / 6, "head": 2 / 6, "torso": 1 / 6, "tail": 2 / 6})
