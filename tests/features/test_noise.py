"""Injected noise against sets of what each user had."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from recsys.features.event_log import EventLog
from recsys.features.fraction import Fraction
from recsys.features.noise import INJECTED, InjectedNoise, inject, recall_ceiling
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, HeldOut, Split, SplitError
from recsys.features.user_shares import UserShares

ITEMS, RATIO = 60, 0.3


def log_of(users: int = 30, events: int = 500, items: int = ITEMS, seed: int = 0) -> EventLog:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({"user_id": random.integers(0, users, events), "item_id": random.integers(0, items, events)})
    frame["timestamp"] = random.integers(0, 1000, events)
    frame["chance"] = random.uniform(0.1, 0.9, events)
    return EventLog.from_frame(frame, Schema.parse({"name": "toy", "events": {"propensity": "chance"}}))


@pytest.fixture(scope="module", params=["user_shares", "global_time"])
def split(request: pytest.FixtureRequest) -> Split:
    rule = {"user_shares": UserShares(), "global_time": GlobalTime(0.2, 0.1)}[request.param]
    if request.param == "global_time":
        return rule(log_of())
    with pytest.warns(UserWarning, match="user_shares"):
        return rule(log_of())


def held(split: Split, user: int) -> tuple[list[int], list[bool]]:
    part = slice(split.train_start[user], split.train_end[user])
    noise = split.log.columns.get(INJECTED, np.zeros(split.log.n_events, bool))
    return split.log.item_id[part].tolist(), noise[part].tolist()


def sets(split: Split) -> dict[str, HeldOut]:
    names = ("validation", "test", "validation_cold_users", "test_cold_users")
    return {name: getattr(split, name) for name in names}


@pytest.mark.parametrize("avoid", [True, False])
def test_every_user_gets_a_share_of_items_that_were_not_there(split: Split, avoid: bool) -> None:
    noisy, log = inject(split, RATIO, avoid_held_out=avoid), split.log
    total, coincide = 0, 0
    for user in range(1, log.n_users + 1):
        before, _ = held(split, user)
        after, noise = held(noisy, user)
        added = [item for item, flag in zip(after, noise, strict=True) if flag]
        assert [item for item, flag in zip(after, noise, strict=True) if not flag] == before
        assert len(added) == len(set(added)) == int(RATIO * len(set(before)))
        assert not set(added) & set(before) and all(1 <= item <= log.n_items for item in added)
        everything = set(log.item_id[log.offsets[user] : log.offsets[user + 1]].tolist())
        coincide += len(set(added) & everything)
        total += len(added)
    assert noisy.log.columns[INJECTED].sum() == total == noisy.facts["injected_events"] > 50
    assert (coincide == 0) is avoid


def test_the_log_stays_one_and_the_other_parts_as_they_were(split: Split) -> None:
    noisy, log = inject(split, RATIO), split.log
    keys = np.stack([noisy.log.user_ids(), noisy.log.timestamp])
    assert (np.lexsort(keys[::-1]) == np.arange(noisy.log.n_events)).all()
    assert noisy.facts["train_events"] == split.facts["train_events"] + noisy.facts["injected_events"]
    assert noisy.rule == split.rule and len({noisy.hash, inject(split, RATIO, 1).hash, split.hash}) == 3
    clean = ~noisy.log.columns[INJECTED]
    for name, column in log.columns.items():
        assert np.array_equal(noisy.log.columns[name][clean], column) and noisy.log.columns[name].dtype == column.dtype
    own = [(u, p) for u, p in zip(noisy.log.user_ids(), noisy.log.columns["propensity"], strict=True)]
    assert set(own) == {(u, p) for u, p in zip(log.user_ids(), log.columns["propensity"], strict=True)}
    for name, part in sets(split).items():
        moved = sets(noisy)[name]
        assert np.array_equal(moved.users, part.users)
        assert not noisy.log.columns[INJECTED][moved.targets()].any()
        assert np.array_equal(noisy.log.item_id[moved.targets()], log.item_id[part.targets()])
        for row in range(len(part)):
            history = slice(moved.history_start[row], moved.history_end[row])
            kept = noisy.log.item_id[history][clean[history]]
            assert np.array_equal(kept, log.item_id[part.history_start[row] : part.history_end[row]])


def test_items_are_uniform_and_seeds_repeat() -> None:
    frame = pd.DataFrame({"user_id": 0, "item_id": range(20), "timestamp": range(20)})
    two = pd.concat([frame, frame.assign(user_id=1, item_id=frame.item_id + 4)])
    split = GlobalTime(0.3, 0.0)(EventLog.from_frame(two, Schema(name="two")))
    first, again, other = (inject(split, 0.3, seed).log.item_id.tolist() for seed in (1, 1, 2))
    assert first == again != other
    had, draws = set(held(split, 1)[0]), 800
    counts = np.zeros(split.log.n_items + 1)
    for seed in range(draws):
        noisy = inject(split, 0.3, seed, avoid_held_out=False)
        np.add.at(counts, np.array(held(noisy, 1)[0])[held(noisy, 1)[1]], 1)
    free = [item for item in range(1, split.log.n_items + 1) if item not in had]
    mean = draws * int(0.3 * len(had)) / len(free)
    assert counts.sum() == counts[free].sum() == mean * len(free)
    assert ((counts[free] - mean) ** 2 / mean).sum() < len(free) + 4 * (2 * len(free)) ** 0.5  # chi-square


def test_ratio_zero_is_the_clean_split_and_short_profiles_get_nothing(split: Split) -> None:
    nothing = inject(split, 0.0)
    assert not nothing.log.columns[INJECTED].any()
    for name in ("train_start", "train_end"):
        assert np.array_equal(getattr(nothing, name), getattr(split, name))
    few = inject(split, 0.1)
    for user in range(1, split.log.n_users + 1):
        assert sum(held(few, user)[1]) == (0 if len(set(held(split, user)[0])) < 10 else 1)


def test_the_ceiling_counts_targets_that_were_injected(split: Split) -> None:
    clean = inject(split, RATIO)
    assert recall_ceiling(clean, clean.test) == 1.0
    noisy = inject(split, RATIO, avoid_held_out=False)
    shares = []
    for row, user in enumerate(noisy.test.users):
        targets = set(noisy.log.item_id[noisy.test.target_start[row] : noisy.test.target_end[row]].tolist())
        items, noise = held(noisy, user)
        shares.append(len(targets - {i for i, flag in zip(items, noise, strict=True) if flag}) / len(targets))
    assert recall_ceiling(noisy, noisy.test) == pytest.approx(np.mean(shares)) and np.mean(shares) < 1


def test_the_rule_is_the_function(split: Split) -> None:
    rule = UserShares() if split.rule == "user_shares" else GlobalTime(0.2, 0.1)
    noisy = InjectedNoise(rule, RATIO, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = noisy(split.log)
    assert made.hash == inject(split, RATIO, seed=3).hash and noisy.name == split.rule
    own = {"ratio": RATIO, "seed": 3, "avoid_held_out": True}
    assert {name: noisy.settings()[name] for name in own} == own
    assert noisy.settings()["rule"]["init_args"] == rule.settings()


def test_what_cannot_be_injected_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio must be"):
        InjectedNoise(GlobalTime(), -0.1)
    with pytest.raises(SplitError, match="wrap it around the other"):
        Fraction(InjectedNoise(GlobalTime(), 0.3), 0.5)(log_of())
    frame = pd.DataFrame({"user_id": "ann", "item_id": [0, 1, 2, 3, 4], "timestamp": range(5)})
    split = GlobalTime(0.2, 0.0)(EventLog.from_frame(frame, Schema(name="all of it")))
    with pytest.raises(ValueError, match="user ann is to get 2 items and has not had only 0 of 5"):
        inject(split, 0.5)
