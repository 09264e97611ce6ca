"""Tables of logged rounds: what is read, and one clear error for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import LogColumns, LogError

GOOD = pd.DataFrame(
    {
        "action": ["b", "a", "b"],
        "reward": [1.0, 0.0, 2.0],
        "propensity": [0.5, 0.25, 1.0],
        "position": [3, 1, 3],
        "user_id": ["u", "v", "u"],
        "candidates": [["a", "b"], ["a"], ["c", "b"]],
        "age": [1.0, 2.0, 3.0],
        "country": ["x", "z", "y"],
    }
)


def test_columns_become_codes(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    GOOD.to_parquet(path)
    log = BanditLog.read(path, LogColumns(context=("age", "country")))
    assert list(log.actions) == ["a", "b", "c"] and log.action.tolist() == [1, 0, 1]
    assert list(log.positions) == [1, 3] and log.position.tolist() == [1, 0, 1]
    assert log.unit.tolist() == [0, 1, 0]
    assert log.context.tolist() == [[1, 0, 0], [2, 0, 1], [3, 1, 0]]
    block = log.candidate_block(np.array([1, 2]))
    assert block is not None and block.tolist() == [[0, -1], [2, 1]]
    assert log.width == 2 and log.logged_at().tolist() == [[True, False, False], [False, True, False]]
    assert log.origin == str(path)


def test_without_users_a_slate_is_one_and_else_a_round() -> None:
    alone = GOOD.drop(columns="user_id")
    assert BanditLog.from_frame(alone).unit.tolist() == [0, 1, 2]
    assert BanditLog.from_frame(alone.assign(slate_id=[7, 5, 7])).unit.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("propensity", [0.5, 0.0, 1.0], r"`propensity` is 0 in row 1.*Log the chance"),
        ("propensity", [0.5, 0.2, 1.5], r"`propensity` is 1.5 in row 2"),
        ("propensity", [np.nan, 0.2, 0.5], r"`propensity` is nan in row 0.*finite"),
        ("propensity", ["x", "y", "z"], r"`propensity` is no column of numbers"),
        ("reward", [1.0, np.inf, 0.0], r"`reward` is inf in row 1.*finite"),
        ("reward", [1.0, 0.0, np.nan], r"`reward` is nan in row 2"),
        ("action", ["a", None, "b"], r"`action` is empty in row 1"),
        ("action", ["b", "a", "a"], r"none of the `candidates` in row 2"),
        ("candidates", [["b"], ["a"], ["b", "c", "b"]], r"names 'b' twice in row 2"),
        ("candidates", [1, 2, 3], r"`candidates` is no column of lists"),
        ("user_id", ["u", None, "v"], r"`user_id` is empty in row 1"),
        ("marginal_propensity", [1.0, 1.0, -1.0], r"`marginal_propensity` is -1 in row 2"),
        ("country", ["x", None, "y"], r"`country` is empty in row 1"),
    ],
)
def test_what_is_wrong_is_named(column: str, values: list[Any], said: str) -> None:
    frame = GOOD.assign(**{column: values})
    with pytest.raises(LogError, match=f"shop.parquet: .*{said}"):
        BanditLog.from_frame(frame, LogColumns(context=("country",)), origin="shop.parquet")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no column `propensity`; it has action.*LogColumns"):
        BanditLog.from_frame(GOOD.drop(columns="propensity"))
    with pytest.raises(LogError, match="no rounds"):
        BanditLog.from_frame(GOOD.iloc[:0])
    with pytest.raises(LogError, match=r"nothing.parquet: no Parquet file"):
        BanditLog.read(tmp_path / "nothing.parquet")
    with pytest.raises(LogError, match="1001 distinct texts"):
        many = pd.DataFrame({"action": 0, "reward": 0, "propensity": 1, "word": [str(n) for n in range(1001)]})
        BanditLog.from_frame(many, LogColumns(context=("word",)))


def test_only_the_given_actions_are_known() -> None:
    plain = GOOD.drop(columns="candidates")
    assert BanditLog.from_frame(plain, actions=["c", "b", "a"]).action.tolist() == [1, 2, 1]
    with pytest.raises(LogError, match=r"`action` is 'a' in row 1.*none of the 1 actions"):
        BanditLog.from_frame(plain, actions=["b"])
    with pytest.raises(LogError, match="names 'c' in row 2, which is none of the actions"):
        BanditLog.from_frame(GOOD, actions=["a", "b"])
    with pytest.raises(LogError, match="'a' more than once"):
        BanditLog.from_frame(plain, actions=["a", "b", "a"])
