"""Where an endless supply of epochs stands, so that a killed job goes on with the batch that follows."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any


class ResumeError(ValueError):
    """A position that these batches do not have."""


class Epochs(abc.ABC):
    """The base of all supplies of batches: their order is a function of seed and epoch, and the position two numbers.

    A subclass sets `seed`, and goes through `places()` in its `__iter__`.

    Attributes:
        seed: of the order.
        epoch: that the next batch belongs to.
    """

    seed: int
    epoch: int = 0
    _next: int = 0

    @abc.abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch."""

    def places(self) -> Iterator[int]:
        """Numbers of the batches that are left of this epoch, each of which counts as handed out when it is asked for.

        It cannot be later than that: a trainer that knows the length never asks for the end.
        """
        epoch, steps = self.epoch, len(self)
        for place in range(self._next, steps):
            self.epoch, self._next = (epoch + 1, 0) if place + 1 == steps else (epoch, place + 1)
            yield place

    def state_dict(self) -> dict[str, Any]:
        """Epoch, next batch, and of how many; Lightning stores it with the checkpoint."""
        return {"epoch": self.epoch, "next": self._next, "seed": self.seed, "batches": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at the batch that follows the last one handed out.

        Raises:
            ResumeError: the checkpoint was saved amid an epoch of another number of batches.
        """
        batches = state.get("batches", len(self))  # older checkpoints do not say
        if state["next"] and (batches != len(self) or state["next"] >= len(self)):
            raise ResumeError(
                f"the checkpoint was saved before batch {state['next'] + 1} of an epoch of {batches}, and there are "
                f"{len(self)} now: resume with the data, batches and batch size that it was saved with"
            )
        self.epoch, self._next, self.seed = state["epoch"], state["next"], state["seed"]
