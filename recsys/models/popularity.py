"""Models that recommend the same items to everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.interactions import training_events
from recsys.models.recommender import FittedRecommender, VectorRecommender

if TYPE_CHECKING:
    from recsys.features.splits import Split

SECONDS_PER_DAY = 86_400


class Popularity(FittedRecommender, VectorRecommender):
    """Items by the number of their training events.

    As vectors: every user is `(1)` and an item is its number of events.

    Example:
        >>> Popularity().config()
        {}
    """

    personal = False

    def fit(self, split: Split) -> None:
        events = training_events(split)
        log = split.log
        weight = self._weight(np.asarray(log.timestamp)[events])
        counts = np.bincount(np.asarray(log.item_id)[events], weight, minlength=log.n_items + 1)
        self.tensors = {"popularity": torch.from_numpy(counts.astype(np.float32))}

    def _weight(self, timestamp: np.ndarray) -> np.ndarray | None:
        """What each training event counts, `[E]` float64 from `[E]` int64 seconds; None: one each."""
        return None

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        return self.state()["popularity"].new_ones(len(batch), 1)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        popularity = self.state()["popularity"][:, None]
        return popularity if ids is None else popularity[ids]


class RecentPopularity(Popularity):
    """Items by the number of their training events in the last days of training.

    Args:
        days: length of the window that ends with the last training event, in days.
    """

    def __init__(self, days: float = 30.0) -> None:
        super().__init__()
        if not days > 0:
            raise ValueError(f"days must be positive, got {days}")
        self.days = days

    def _weight(self, timestamp: np.ndarray) -> np.ndarray:
        return (_age(timestamp) <= self.days).astype(np.float64)


class DecayedPopularity(Popularity):
    """Items by the number of their training events, where an event's weight halves every `half_life_days`.

    Args:
        half_life_days: age at which an event counts one half, in days before the last training event.
    """

    def __init__(self, half_life_days: float = 30.0) -> None:
        super().__init__()
        if not half_life_days > 0:
            raise ValueError(f"half_life_days must be positive, got {half_life_days}")
        self.half_life_days = half_life_days

    def _weight(self, timestamp: np.ndarray) -> np.ndarray:
        return np.exp2(-_age(timestamp) / self.half_life_days)


def _age(timestamp: np.ndarray) -> np.ndarray:
    """Days before the last training event, `[E]` float64."""
    if not len(timestamp):
        return np.zeros(0)
    return (timestamp.max() - timestamp) / SECONDS_PER_DAY
