"""The studies of off-policy estimates run, write whole files, and their planted slates are what they say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import off_policy_calibration
import open_bandit
import pandas as pd
import pytest
from _planted_slates import PlantedSlates

from recsys.simulation.off_policy.bandit_log import BanditLog


def test_slates_have_the_value_that_they_say() -> None:
    scores = np.array([0.0, 1.0, 0.5, -0.5])
    planted = PlantedSlates(np.array([0.6, 0.3, 0.2, 0.1]), scores, scores)
    assert planted.conditional(scores).prod(1).sum() == pytest.approx(1)
    log = planted.draw(20_000, 0)
    clicks = log.reward.reshape(-1, 3).sum(1)
    assert set(clicks) == {0.0, 1.0}
    assert clicks.mean() == pytest.approx(planted.value, abs=4 * np.sqrt(0.25 / 20_000))
    first = log.action.reshape(-1, 3)[:, 0]
    assert np.bincount(first) / 20_000 == pytest.approx(np.exp(scores) / np.exp(scores).sum(), abs=0.015)


def test_a_short_calibration_is_written(tmp_path: Path) -> None:
    out = tmp_path / "calibration.json"
    assert off_policy_calibration.main(["--smoke", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert set(content["worlds"]) == {"near", "far", "rare clicks", "many actions", "slates"}
    near = content["worlds"]["near"]["estimators"]
    assert near["IPW"]["sd_of_theory"] > near["DR"]["sd_of_theory"] > 0 and near["SNDR"]["sd_of_theory"] is None
    shares = [each for row in near.values() for each in row["coverage"].values()]
    assert all(0 <= each["low"] <= each["share"] <= each["high"] <= 1 for each in shares)


def test_shares_are_the_mean_distribution_and_mean_propensities_are_not() -> None:
    """A policy that alternates between two distributions: rounds in which an item was likely are logged more often."""
    random = np.random.default_rng(0)
    chance = np.where(random.random(40_000) < 0.5, 0.9, 0.1)
    first = random.random(40_000) < chance
    frame = pd.DataFrame({"item_id": np.where(first, 0, 1), "click": 0.0, "position": 1})
    frame["propensity_score"] = np.where(first, chance, 1 - chance)
    log = BanditLog.from_frame(frame, open_bandit.COLUMNS)
    assert open_bandit.shares(log)[0] == pytest.approx([0.5, 0.5], abs=0.02)
    assert open_bandit.sums_of_mean_propensities(log) == pytest.approx([2 * (0.9**2 + 0.1**2)], abs=0.02)


@pytest.mark.skipif("RECSYS_DATA" not in os.environ, reason="needs the Open Bandit samples in the folder RECSYS_DATA")
def test_a_campaign_of_the_open_bandit_samples(tmp_path: Path) -> None:
    out = tmp_path / "open_bandit.json"
    assert open_bandit.main(["--smoke", "--out", str(out)]) == 0
    content = json.loads(out.read_text())["campaigns"]["all"]
    found = content["bts from the uniform log"]
    assert found["on_policy"]["value"] == pytest.approx(0.0042) and len(found["estimates"]) == 8
    assert found["diagnostics"]["mean_weight"] == pytest.approx(1, abs=0.05) and not found["refused_by_default"]
    assert len(content["sums_of_mean_propensities_of_bts"]) == 3
