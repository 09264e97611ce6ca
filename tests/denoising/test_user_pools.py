"""Pools against sets of what each user had."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.denoising.user_pools import PoolBatch, UserPools, draw_distinct
from recsys.features.event_log import EventLog
from recsys.features.noise import inject
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split

BATCH = 64


@pytest.fixture(scope="module")
def split() -> Split:
    """Users of 1 to 12 items out of 30, and one more who is there to be tested."""
    random = np.random.default_rng(1)
    lengths = [1, 2, 3, 4, 5, 6, 12]
    rows = [(user, item) for user, n in enumerate(lengths) for item in random.choice(30, n, replace=False)]
    rows += [(99, item) for item in range(30)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id"])
    frame["timestamp"] = np.where(frame.user_id == 99, np.arange(len(frame)), 1)
    return GlobalTime(0.3, 0.1)(EventLog.from_frame(frame, Schema(name="toy")))


def made(split: Split, seed: int = 0, **sizes: int) -> UserPools:
    pools = UserPools(**sizes)
    pools.setup(split, BATCH, seed)
    return pools


def had(split: Split) -> dict[int, set[int]]:
    ranges = zip(split.train_start.tolist(), split.train_end.tolist(), strict=True)
    return {u: set(split.log.item_id[a:b].tolist()) for u, (a, b) in enumerate(ranges) if b > a}


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_pools_are_of_the_user_and_negatives_are_not(split: Split, ratio: float) -> None:
    split = inject(split, ratio, avoid_held_out=False)
    own = had(split)
    noise = {
        (int(user), int(item))
        for user, item, flag in zip(split.log.user_ids(), split.log.item_id, split.log.columns["injected"], strict=True)
        if flag
    }
    assert bool(noise) is bool(ratio)
    pools = made(split, size=4, n=3)
    rows = 0
    for batch in itertools.chain.from_iterable([pools] * 30):
        assert isinstance(batch, PoolBatch) and batch.injected is not None
        rows += len(batch)
        assert batch.items.shape == (len(batch), 4) and batch.others.shape == (len(batch), 3)
        parts = (batch.users, batch.items, batch.others, batch.injected)
        for user, pool, others, flags in zip(*map(torch.Tensor.tolist, parts), strict=True):
            assert set(pool) <= own[user] and not set(others) & own[user]
            assert all(1 <= item <= split.log.n_items for item in others)
            assert len(set(pool)) == 4 or len(own[user]) < 4
            assert flags == [(user, item) in noise for item in pool]
    assert rows == 30 * sum(map(len, own.values()))


def test_users_are_uniform_and_so_are_their_pools(split: Split) -> None:
    own = had(split)
    pools = made(split, size=3)
    users, firsts, members = np.zeros(99), np.zeros((99, 99)), np.zeros((99, 99))
    for batch in itertools.chain.from_iterable([pools] * 600):
        assert isinstance(batch, PoolBatch)
        np.add.at(users, batch.users.numpy(), 1)
        np.add.at(firsts, (batch.users.numpy(), batch.items[:, 0].numpy()), 1)
        np.add.at(members, (batch.users.numpy()[:, None], batch.items.numpy()), 1)
    drawn = users[[*own]]
    mean = drawn.mean()
    assert ((drawn - mean) ** 2 / mean).sum() < 7 + 4 * 14**0.5  # chi-square over eight users, not over their pairs
    for user, items in own.items():
        counts, expected = firsts[user, [*items]], users[user] / len(items)
        assert ((counts - expected) ** 2 / expected).sum() < len(items) + 4 * (2 * len(items)) ** 0.5
        if len(items) >= 3:
            deviation = (members[user, [*items]] - 3 * expected) / (3 * expected) ** 0.5
            assert np.abs(deviation).max() < 4.5


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6])
def test_distinct_numbers_are_uniform_over_ordered_samples(length: int) -> None:
    k, n = 3, 24_000
    drawn = draw_distinct(np.full(n, length), k, np.random.default_rng(length))
    orders = [*itertools.product(range(length), repeat=k)]
    if length >= k:
        orders = [*itertools.permutations(range(length), k)]
    found = {order: 0 for order in orders}
    for row in drawn.tolist():
        found[tuple(row)] += 1
    mean, degrees = n / len(orders), len(orders) - 1
    assert sum((count - mean) ** 2 / mean for count in found.values()) <= degrees + 4 * (2 * degrees) ** 0.5


def test_an_epoch_knows_its_number_and_resumes(split: Split) -> None:
    whole = made(split, size=2)
    assert len(whole) == -(-sum(map(len, had(split).values())) // BATCH)
    epochs = [[batch for batch in whole] for _ in range(3)]
    assert [[int(b.epoch) for b in epoch] for epoch in epochs] == [[e] * len(whole) for e in range(3)]  # type: ignore[attr-defined]
    again = made(split, size=2)
    again.load_state_dict({"epoch": 1, "next": 0, "seed": 0})
    for one, other in zip(again, epochs[1], strict=True):
        assert torch.equal(one.items, other.items) and torch.equal(one.users, other.users)
    assert not torch.equal(epochs[0][0].items, epochs[1][0].items)
    moved = epochs[0][0].to("meta")
    assert isinstance(moved, PoolBatch) and moved.items.device.type == "meta" and moved.injected is None


def test_sizes_and_users_with_everything_are_refused() -> None:
    for sizes in ({"size": 0}, {"n": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            UserPools(**sizes)
    frame = pd.DataFrame({"user_id": ["ann"] * 4 + ["bob"], "item_id": [0, 1, 2, 2, 1], "timestamp": [1, 2, 3, 4, 5]})
    full = GlobalTime(0.2, 0.0)(EventLog.from_frame(frame, Schema(name="full")))
    with pytest.raises(ValueError, match="user ann had all 3 items"):
        made(full)
