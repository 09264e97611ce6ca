"""What every rule says that trains on some positives of a pool more than on others."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor


class PoolWeighting(abc.ABC):
    """Weights for the positives of pools, from their losses.

    It draws from its own generator: pools and negatives are the same whatever it does.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def setup(self, n_users: int, seed: int, device: torch.device) -> None:
        """Fits it to the users 1..n_users; called once before training."""
        self.generator = torch.Generator(device).manual_seed(seed)

    def reads_losses(self, epoch: int) -> bool:
        """Whether losses decide anything in this epoch, from 0; where not, they are not computed and given as 0."""
        return True

    @abc.abstractmethod
    def weights(self, losses: Tensor, users: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What each positive counts.

        Args:
            losses: `[B, k]`, without gradient.
            users: `[B]` int64.
            epoch: from 0.

        Returns:
            Weights `[B, k]`, at least 0, that sum to one in each row or on average over rows, or to less the more is
            lost; a positive of weight 0 is not trained on. And scalars to log.
        """

    def negative_weights(self, losses: Tensor, epoch: int) -> Tensor | None:
        """Weights `[B, m]` of the negatives, from their losses `[B, m]`, where these are trained on; None: 1 each."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, and of what it has learned."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict()`."""
        self.generator.set_state(state["generator"].cpu())
