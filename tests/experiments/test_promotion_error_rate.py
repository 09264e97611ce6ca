"""The simulated promotions are what they say: equal models are equal, a gain is a gain, and the file is whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import promotion_error_rate
import pytest
from promotion_error_rate import World, ndcg_of_a_hit

WORLD = World(users=200_000, hit_rate=0.1, seed_sd=0.1, agree=0.5)


def test_values_have_the_means_that_the_world_says() -> None:
    ndcg, hits = WORLD.promotion(np.random.default_rng(0), gain=0.2, luck=0.0)
    error = 4 * np.sqrt(0.1 * 0.9 / WORLD.users)
    assert hits.champion.mean() == pytest.approx(0.1, abs=error)
    # A chance of more than one is none: the gain of the easiest users is lost.
    assert 0.1 * 1.15 < hits.challenger.mean() < 0.1 * 1.2 + error
    assert ndcg.champion[hits.champion > 0].mean() == pytest.approx(ndcg_of_a_hit(), abs=0.01)
    same = (ndcg.champion == ndcg.challenger).mean()
    assert same > 0.5 and set(hits.champion) == {0.0, 1.0}


def test_trainings_are_worth_as_much_as_the_spread_says() -> None:
    random, small = np.random.default_rng(1), World(users=20_000, hit_rate=0.1, seed_sd=0.1, agree=1.0)
    means = [small.promotion(random, 0.0, luck=1.0)[1].challenger.mean() for _ in range(60)]
    expected = np.sqrt(small.spread_over_seeds(0.5)["HR@10"] ** 2 + 0.1 * 0.9 / small.users)
    assert np.std(means, ddof=1) == pytest.approx(expected, rel=0.4)
    assert small.spread_over_seeds(0.5)["NDCG@10"] == pytest.approx(0.005)


def test_a_short_study_is_written(tmp_path: Path) -> None:
    out = tmp_path / "error_rate.json"
    words = ["--promotions", "3", "--users", "500", "--resamples", "50", "--out", str(out)]
    assert promotion_error_rate.main(words) == 0
    content = json.loads(out.read_text())
    assert len(content["promotions"]) == 13
    assert all(0 <= found["low"] <= found["share"] <= found["high"] <= 1 for found in content["promotions"].values())
    assert content["settings"]["promotions"] == 3 and content["settings"]["users"] == 500


def test_the_page_shows_what_the_study_has_found() -> None:
    root = Path(__file__).parents[2]
    found = json.loads((root / "experiments/results/promotion/error_rate.json").read_text())["promotions"]
    page = (root / "docs" / "promotion.md").read_text()
    for name, told in found.items():
        assert f"| {name} | {told['passed']} | {told['low']:.1%} to {told['high']:.1%} |" in page
