"""The report: diagnostics first, refusals instead of estimates, and intervals that cover."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.diagnostics import Limits
from recsys.simulation.off_policy.evaluate import default_estimators, evaluate_policies
from recsys.simulation.off_policy.intervals import Normal
from recsys.simulation.off_policy.inverse_propensity import IPW, ClippedIPW
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import TablePolicy
from tests.simulation.off_policy.worlds import world

WORLD = world()
NAMES = ["DM", "IPW", "clipped IPW", "SNIPW", "DR", "SNDR", "switch-DR", "DRos"]


def test_every_estimator_finds_the_value() -> None:
    log = WORLD.draw(20_000, 0)
    report = evaluate_policies(
        log, {"new": WORLD.policy(log), "logging": WORLD.policy(log, WORLD.logging)}, level=0.001
    )
    assert [estimator.name for estimator in default_estimators()] == list(report.policies["new"].estimates) == NAMES
    logged = float((WORLD.logging * WORLD.click).sum(1).mean())
    assert report.logged == pytest.approx(log.reward.mean()) and report.logged_low < logged < report.logged_high
    for name, found in report.policies["new"].estimates.items():
        if name != "DM":  # which has a bias of its model, that knows no groups
            assert found.low < WORLD.value < found.high, name
        assert found.gain == pytest.approx(found.value - report.logged)
        assert (
            found.gain_low < WORLD.value - (WORLD.logging * WORLD.click).sum(1).mean() < found.gain_high or name == "DM"
        )
        assert (found.parameter is None) == (name not in {"clipped IPW", "switch-DR", "DRos"})
    same = report.policies["logging"].estimates["IPW"]
    assert same.value == pytest.approx(report.logged) and same.gain_low == pytest.approx(0) == same.gain_high
    table = report.table()
    assert list(table.columns[:3]) == ["policy", "estimator", "value"] and len(table) == 2 * len(NAMES)
    assert (
        json.loads(json.dumps(report.as_json(), allow_nan=False))["policies"]["new"]["diagnostics"]["rounds"] == 20_000
    )


def test_what_the_log_cannot_judge_has_no_estimates() -> None:
    logging = WORLD.logging.copy()
    logging[:, 2] = 0
    log = replace(WORLD, logging=logging / logging.sum(1, keepdims=True)).draw(1000, 0)
    policies = {"new": WORLD.policy(log)}
    report = evaluate_policies(log, policies)
    assert "never logged" in report.policies["new"].refusals[0] and not report.policies["new"].estimates
    assert report.table().empty and "value" in report.table()
    loose = evaluate_policies(log, policies, limits=Limits(1.0, 0.0, 0.0))
    assert len(loose.policies["new"].estimates) == len(NAMES)


def test_equal_seeds_give_equal_reports_whatever_the_blocks() -> None:
    log = WORLD.draw(500, 0)
    policies = {"new": WORLD.policy(log)}
    first = evaluate_policies(log, policies, seed=1)
    assert evaluate_policies(log, policies, seed=1) == first
    in_rows = evaluate_policies(log, policies, seed=1, budget=1).table()
    pd.testing.assert_frame_equal(in_rows, first.table(), rtol=1e-9)
    assert evaluate_policies(log, policies, seed=2) != first


def test_what_is_chosen_is_used() -> None:
    log = WORLD.draw(500, 0)
    clusters = np.zeros(5, dtype=np.int64)
    found = evaluate_policies(log, {"new": WORLD.policy(log)}, intervals=Normal(), clusters=clusters)
    estimates = found.policies["new"].estimates
    assert list(estimates) == [*NAMES, "MIPS"]
    ipw = estimates["IPW"]
    assert ipw.high - ipw.value == pytest.approx(ipw.value - ipw.low)
    only = evaluate_policies(log, {"new": WORLD.policy(log)}, intervals=Normal(), estimators=[IPW()])
    assert only.policies["new"].estimates == {"IPW": ipw}


def test_an_estimator_does_not_take_the_place_of_another() -> None:
    log = WORLD.draw(500, 0)
    with pytest.raises(ValueError, match="two estimators are named clipped IPW"):
        evaluate_policies(log, {"new": WORLD.policy(log)}, estimators=[ClippedIPW(2.0), IPW(), ClippedIPW(5.0)])


def test_users_who_repeat_widen_the_intervals() -> None:
    """One draw of a user, logged ten times over, is one draw."""
    one = WORLD.draw(300, 0).table
    often = pd.concat([one.assign(user_id=np.arange(300))] * 10)
    widths = []
    for table in (one, often, often.drop(columns="user_id")):
        log = BanditLog.from_frame(table, actions=range(5))
        policy = TablePolicy(WORLD.target, log.table["group"].to_numpy())
        found = evaluate_policies(log, {"new": policy}, estimators=[IPW()]).policies["new"].estimates["IPW"]
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.15) and widths[2] < 0.5 * widths[1]


def test_rounds_that_share_a_slate_are_not_weighed_one_by_one() -> None:
    frame = pd.DataFrame({"action": [0, 1, 0, 1], "reward": 1.0, "propensity": 0.5, "slate_id": [7, 7, 8, 9]})
    with pytest.raises(LogError, match=r"1 slates have several rounds.*evaluate_slates"):
        evaluate_policies(BanditLog.from_frame(frame), {})
