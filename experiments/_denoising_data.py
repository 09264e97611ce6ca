"""What `denoising.py` trains on: positives of users who gave enough of them, with injected or natural noise."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np

from recsys.denoising.user_pools import UserPools
from recsys.features.datasets import load_dataset
from recsys.features.event_log import EventLog
from recsys.features.noise import INJECTED, InjectedNoise
from recsys.features.splits import HeldOut, Ids, SplitRule
from recsys.features.user_shares import UserShares
from recsys.training.data import EventLogData

POSITIVE, DISLIKED, LEAST = 4, 2, 10
"""Smallest rating of a positive, largest rating of natural noise, and fewest positives of a user that is kept."""
TRAIN, TEST = 0.7, 0.2
RATIOS = ("0.0", "0.1", "0.2", "0.3", "0.4", "0.5")
NATURAL = "natural"
NOISES = {"movielens_100k": (*RATIOS, NATURAL), "gowalla": RATIOS}
"""Data set -> injected items for each training item, or the low ratings that people gave themselves."""


@lru_cache(maxsize=2)
def positives(dataset: str, seed: int, natural: bool = False) -> EventLog:
    """Positives of users who gave enough of them, each user's in random order, so that the parts are random.

    Args:
        dataset: its name; where it has ratings, high ones are positive, and all events otherwise.
        seed: of the order.
        natural: put the same users' other ratings before them, and say which are noise.
    """
    source = load_dataset(dataset)
    events = cast(Any, source.events)
    stage = np.full(len(events), 2)
    if "rating" in events:
        stage = np.select([events["rating"] <= DISLIKED, events["rating"] < POSITIVE], [0, 1], 2)
    high = events[stage == 2]
    counts = high.groupby("user_id")["item_id"].nunique()
    kept = events["user_id"].isin(counts.index[counts >= LEAST]) & (natural | (stage == 2))
    events, stage = events[kept], stage[kept]
    times = stage.copy()
    times[stage == 2] += np.random.default_rng(seed).permutation((stage == 2).sum())
    log = EventLog.from_frame(events.assign(timestamp=times), source.schema, source.items, source.users)
    return replace(log, columns=log.columns | {INJECTED: log.timestamp == 0}) if natural else log


class NaturalNoise(SplitRule):
    """The parts of `UserShares` of each user's positives; the user's other ratings train too, low ones as noise.

    Args:
        clean: leave the noise out of the training part.
    """

    name = "natural_noise"

    def __init__(self, clean: bool = False) -> None:
        self.clean = clean

    def settings(self) -> dict[str, Any]:
        return {"train": TRAIN, "test": TEST, "clean": self.clean}

    def cut(self, log: EventLog) -> tuple[Ids, Ids, HeldOut, HeldOut, dict[str, int | float]]:
        users, start, end = log.user_ids(), log.offsets[:-1], log.offsets[1:]
        noise, others = (np.bincount(users[log.timestamp == at], minlength=log.n_users + 1) for at in (0, 1))
        first = start + noise + others
        train_end = first + (TRAIN * (end - first)).astype(np.int64)
        test_start = np.maximum(end - (TEST * (end - first)).astype(np.int64), train_end)
        begin, everybody = start + noise * self.clean, np.arange(1, log.n_users + 1)
        validation = HeldOut.of(begin, train_end, test_start, everybody)
        test = HeldOut.of(begin, test_start, end, everybody)
        return begin, train_end, validation, test, {"noisy_events": int(noise.sum())}


class Positives(EventLogData):
    """The log of `positives`, of whose users 70 % of the items train, 10 % validate and 20 % test.

    Args:
        dataset: its name.
        noise: one of `NOISES`.
        seed: of the parts and of the noise.
        batch_size: rows of a step.
        batches: of users and their positives.
        clean: the same parts without the noise.
    """

    def __init__(
        self, dataset: str, noise: str, seed: int, batch_size: int, batches: UserPools, clean: bool = False
    ) -> None:
        self.natural = noise == NATURAL
        rule: SplitRule = NaturalNoise(clean)
        if not self.natural:
            rule = InjectedNoise(UserShares(TRAIN, TEST), 0.0 if clean else float(noise), seed)
        super().__init__(dataset, split=rule, batch_size=batch_size, seed=seed, batches=batches)

    @cached_property
    def log(self) -> EventLog:
        assert self.dataset is not None
        return positives(self.dataset, self.seed, self.natural)
