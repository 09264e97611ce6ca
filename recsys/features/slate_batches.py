"""Training batches with some slates beside the windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.epochs import ResumeError
from recsys.features.slates import SlateBatch, Slates
from recsys.features.splits import Split

_SLATES = 1
"""Tells the order of slates from that of windows, which has the same seed."""


@dataclass(frozen=True)
class BatchWithSlates(SequenceBatch):
    """Windows of a step, as without slates, and its slates.

    Attributes:
        slates: of other users and times than the windows.
    """

    slates: SlateBatch | None = None

    @classmethod
    def of(cls, batch: SequenceBatch, slates: SlateBatch) -> BatchWithSlates:
        """The batch with these slates."""
        return cls(**{part.name: getattr(batch, part.name) for part in fields(batch)}, slates=slates)


class SlateBatches(TrainingBatches):
    """The epochs of `TrainingBatches`, with slates at every step: windows and their order are the same.

    Slates have epochs of their own length: each is used once before one is used again. Those of a step are a function
    of seed and number of the step, so that the position is that of the windows. Processes share them as they share
    windows.

    Args:
        split: whose training events are used.
        slates: to train on (`Slates.trainable`).
        slates_per_step: of all processes together; all slates where there are fewer.
        batch_size: windows of a step, of all processes together.
        max_length: events of a window and of a history.
        stride: as in `TrainingBatches`.
        seed: of both orders.
        rank: this process.
        ranks: number of processes.

    Raises:
        ValueError: there are fewer slates in a step than processes.
    """

    def __init__(
        self,
        split: Split,
        slates: Slates,
        slates_per_step: int,
        batch_size: int,
        max_length: int,
        stride: int | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ):
        super().__init__(split, batch_size, max_length, stride, seed, rank, ranks)
        self.slates, self.slates_per_step = slates, min(slates_per_step, len(slates))
        if self.slates_per_step < ranks:
            raise ValueError(
                f"{self.slates_per_step} slates in a step of {ranks} processes: each needs one at least; raise the "
                "`batch_size` of `data.slates`, or take fewer processes"
            )

    def __iter__(self) -> Iterator[BatchWithSlates]:
        step = self.epoch * len(self) + self._next
        for number, batch in enumerate(super().__iter__(), step):
            own = self._slates_of(number)[self.rank :: self.ranks]
            yield BatchWithSlates.of(batch, self.slates.batch(own, self.max_length))

    def _slates_of(self, step: int) -> NDArray[np.int64]:
        """`[slates_per_step]` slates of a step, the first of which is number 0."""
        place = step * self.slates_per_step + np.arange(self.slates_per_step)
        epoch, within = np.divmod(place, len(self.slates))
        rows = np.empty_like(within)
        for one in np.unique(epoch):  # two at most
            rows[epoch == one] = _order(self.seed, int(one), len(self.slates))[within[epoch == one]]
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The position, and of how many slates."""
        return super().state_dict() | {"slates": [len(self.slates), self.slates_per_step]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at the step that follows the last one.

        Raises:
            ResumeError: the checkpoint was saved with other slates.
        """
        own = [len(self.slates), self.slates_per_step]
        if state["slates"] != own:
            saved = "{} slates, {} a step".format(*state["slates"])
            raise ResumeError(
                f"the checkpoint was saved with {saved}, and there are {own[0]}, {own[1]} a step: resume with the "
                "`data.slates` that it was saved with"
            )
        super().load_state_dict(state)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, slates: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, _SLATES]).permutation(slates)
