"""The calibration of A/B statistics runs, its published files show what they must, and the page shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ab_calibration
import numpy as np
import pytest
from _ab_interleaving import Comparison
from _ab_parts import CLICK_VARIANCE, SPREAD, TASTE, clicks_of_users, impressions_of_users

ROOT = Path(__file__).parents[2]
PARTS = list(ab_calibration.functions())


def published(part: str) -> Any:
    return json.loads((ROOT / "experiments" / "results" / "ab" / f"{part}.json").read_text())["found"]


def test_a_short_study_is_written(tmp_path: Path) -> None:
    assert ab_calibration.main(["--smoke", "--out", str(tmp_path)]) == 0
    for part in PARTS:
        content = json.loads((tmp_path / f"{part}.json").read_text())
        assert content["found"] and content["settings"] == ab_calibration.sizes(True)[part]
        assert {"scipy", "statsmodels"} <= content["versions"].keys()
    assert (tmp_path / "ab_peeking.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.tmp"))


def test_users_are_those_that_are_described() -> None:
    random = np.random.default_rng(0)
    before, during = clicks_of_users(random, 400_000)
    assert during.mean() == pytest.approx(1, abs=0.02) and during.var() == pytest.approx(CLICK_VARIANCE, rel=0.03)
    assert np.corrcoef(before, during)[0, 1] == pytest.approx((CLICK_VARIANCE - 1) / CLICK_VARIANCE, abs=0.02)
    (_, _), (clicks, shown) = impressions_of_users(random, 200_000)
    assert clicks.sum() / shown.sum() == pytest.approx(TASTE, abs=0.003)
    alike = (clicks[shown == 2] == 1).mean()  # two impressions of one taste: a beta-binomial of known spread
    assert alike == pytest.approx(2 * TASTE * (1 - TASTE) * SPREAD / (SPREAD + 1), abs=0.01)


def test_the_better_ranker_has_the_better_lists() -> None:
    chance, (worse, better) = Comparison(300, 3, 0.5, 0.1).lists(np.random.default_rng(1))
    values = [np.take_along_axis(chance, ranked - 1, axis=1).mean() for ranked in (worse, better)]
    assert values[1] > 1.05 * values[0]


def test_published_tests_keep_their_promises() -> None:
    fixed, looked = published("fixed"), published("peeking")["at the end"]
    naive = fixed.pop("clicks per impression, impressions taken as independent")
    assert all(row["low"] <= 0.05 <= row["high"] and row["of"] == 10_000 for row in fixed.values())
    assert naive["low"] > 0.05
    assert looked["confidence sequence, a look at every user"]["high"] <= 0.05
    assert looked["plain test, 20 looks"]["low"] > 0.2
    for name, row in published("returning").items():
        if name.endswith("at the end"):
            assert row["low"] <= 0.05 <= row["high"]
        else:
            assert row["high"] <= 0.05 if "sequence" in name else row["low"] > 0.1
    assert all(abs(row["share"] - row["planned"]) <= 0.03 for row in published("power").values())
    for row in published("cuped").values():
        if (expected := row["squared correlation"]) is not None:
            assert row["reduction"] == pytest.approx(expected, abs=0.01)
            assert row["of the variance of the mean"] == pytest.approx(expected, abs=0.01)


def test_the_page_shows_what_the_study_has_found() -> None:
    page = (ROOT / "docs" / "ab-tests.md").read_text()
    fixed, looked, saved = published("fixed"), published("peeking")["at the end"], published("cuped")
    split = published("sample_ratio")["52% treated, 20,000 users"]
    stops = published("stopping")["1 times the planned effect"]
    seen = [split[f"{name} below 0.001"]["share"] for name in ("chi-square", "sequential")]
    share = {name: 100 * row["share"] for name, row in (fixed | looked | stops).items() if isinstance(row, dict)}
    mean_users = {times: row[list(row)[-1]] for times, row in published("stopping").items()}
    flat = " ".join(page.split())
    for told in (
        f"seen in {seen[0]:.1%} and in {seen[1]:.1%}".replace("%", " %"),
        f"{share['clicks per user, Welch']:.1f} % false findings",
        f"{share['clicks per impression, delta method']:.1f} %; impressions taken as independent: "
        f"{share['clicks per impression, impressions taken as independent']:.1f} %",
        f"clicks -{saved['clicks per user']['reduction']:.0%}".replace("%", " %"),
        f"clicks per impression -{saved['clicks per impression']['reduction']:.0%}".replace("%", " %"),
        f"{share['confidence sequence, a look at every user']:.1f} % with a look at every user; a plain test: "
        f"{share['plain test, a look at every user']:.1f} %, with 20 looks {share['plain test, 20 looks']:.1f} %",
        f"a power of {share['fixed test at its end']:.0f} %, the sequence has "
        f"{share['confidence sequence by then']:.0f} % by the same users and {share['by twice as many users']:.0f} % "
        "by twice as many",
        f"needs {mean_users['1 times the planned effect']:.2f} times the users",
        f"needs {mean_users['2 times the planned effect']:.0%}".replace("%", " %"),
    ):
        assert told in flat, told
    daily = [100 * row["share"] for name, row in published("returning").items() if name.endswith("daily")]
    assert (
        f"{daily[0]:.1f} % of the plain tests found an effect on clicks per impression so far, and {daily[1]:.1f} %"
        in flat
    )
    assert f"For clicks per user so far these were {daily[2]:.1f} % and {daily[3]:.1f} %" in flat
    for name, row in published("interleaving").items():
        ratio = row["ratio of sessions"]
        assert f"{ratio['value']:.1f} [{ratio['low']:.1f}, {ratio['high']:.1f}] times fewer" in flat, name
        assert ratio["low"] > 1
    needed = [published("interleaving")["close"][f"sessions for 80 % power, {kind}"] for kind in ("A/B", "interleaved")]
    assert f"{needed[0]:,} sessions against {needed[1]:,}" in flat
