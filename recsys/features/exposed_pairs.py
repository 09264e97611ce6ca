"""Batches of pairs where the log also knows what was exposed and not taken."""

from __future__ import annotations

import numpy as np
import torch

from recsys.features.pair_batch import PairBatch
from recsys.features.pair_batches import AllPairs
from recsys.features.random_test import has_order, parts_of
from recsys.features.splits import Split
from recsys.features.training_pairs import Ids, TrainingPairs


class ExposedPairs(AllPairs):
    """Every pair once an epoch, as `AllPairs`, and whether its outcome is known.

    What a split trains on is relevant. Events of the part `train` that it neither trains on nor keeps to be found were
    exposed and are not relevant, such as low ratings that `RandomTest` leaves out. Relevant events that validate are
    missing among what is known, and it would look less relevant than it is: of the others of a user the same share is
    left out, drawn by the hash of the split. A logged propensity is multiplied by the share that is left, so that it is
    the chance that the outcome is known.

    Args:
        column: of the log that names the part of an event, as in `RandomTest`.
        train: its value in the part that users chose.

    Raises:
        ValueError: (in `setup`) the log has no such part, or an order in time; what was not relevant would then be
            known before it was exposed.
    """

    def __init__(self, column: str = "split", train: str = "train_mnar") -> None:
        self.column, self.train = column, train

    def setup(self, split: Split, batch_size: int, seed: int = 0) -> None:
        super().setup(split, batch_size, seed)
        self.exposed, self._share = self.exposures(split), trained_share(split)

    def exposures(self, split: Split) -> TrainingPairs:
        log, users = split.log, split.log.user_ids()
        if has_order(log):
            raise ValueError(
                "ExposedPairs: events of a user differ in time, and it takes exposures without regard to it; give the "
                "log one timestamp, or take AllPairs"
            )
        left = parts_of(log, self.column, {self.train}, "ExposedPairs") == self.train
        place = np.arange(log.n_events)
        trained = (place >= split.train_start[users]) & (place < split.train_end[users])
        left &= ~trained
        for judged in (split.validation, split.validation_cold_users, split.test, split.test_cold_users):
            left[judged.targets()] = False
        draw = np.random.default_rng(int(split.hash[:16], 16)).random(log.n_events)
        events = np.flatnonzero(trained | (left & (draw < trained_share(split)[users])))
        return TrainingPairs.of_events(log, users[events], events)

    def batch(self, rows: Ids, random: np.random.Generator) -> PairBatch:
        place, item = np.divmod(rows, self.pairs.n_items)
        users, items = self.pairs.active_users[place], item + 1
        observed = self.exposed.contains(users, items)
        propensity = None
        if "propensity" in self.log.columns:
            events = self.exposed.event[self.exposed.find(users[observed], items[observed])]
            propensity = np.ones(len(rows), dtype=np.float32)
            propensity[observed] = self.log.columns["propensity"][events] * self._share[users[observed]]
        return PairBatch(
            users=torch.from_numpy(users),
            items=torch.from_numpy(items),
            label=torch.from_numpy(self.pairs.contains(users, items).astype(np.float32)),
            propensity=None if propensity is None else torch.from_numpy(propensity),
            observed=torch.from_numpy(observed.astype(np.float32)),
        )


def trained_share(split: Split) -> np.ndarray:
    """`[n_users + 1]` float64: of what a user trains and validates with, the share that trains; 0 without any."""
    trained = split.train_end - split.train_start
    validation = split.validation
    held = np.bincount(validation.users, validation.target_end - validation.target_start, minlength=len(trained))
    return trained / np.maximum(trained + held, 1)
