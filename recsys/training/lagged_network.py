"""A copy of a network that follows it slowly, for targets that must not run with what is trained on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys.models.interaction import InteractionNetwork


class LaggedNetwork:
    """Moving average of a network's weights, asked for the relevance of pairs.

    It moves once in `interval` steps, which takes time for all weights: tables are averaged whole.

    An untrained network says 0.5 of every pair. Who learns from that keeps it: labels that the model makes itself
    confirm it. For the first steps the relevance is therefore 0, and unlabeled pairs are taken for irrelevant.

    Args:
        decay: share of the average that stays in a move.
        interval: steps from one move to the next.
        warmup: first steps, after which the network is copied as it then is.

    Raises:
        ValueError: `decay` is no share below 1, `interval` not positive, or `warmup` negative.
    """

    def __init__(self, decay: float = 0.9, interval: int = 10, warmup: int = 500) -> None:
        if not 0 <= decay < 1 or interval < 1 or warmup < 0:
            raise ValueError(
                f"decay must lie in [0, 1), interval be positive and warmup not negative, not {decay}, {interval} and "
                f"{warmup}"
            )
        self.decay, self.interval, self.warmup = decay, interval, warmup
        self.reset()

    def reset(self) -> None:
        """Forgets the network."""
        self.steps = 0
        self._network: InteractionNetwork | None = None
        self._weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def relevance(self, network: InteractionNetwork, users: Tensor, items: Tensor) -> Tensor:
        """`[B]` chances that pairs are relevant, as the copy has it; one step, for which `network` is followed.

        Args:
            network: that is trained.
            users: `[B]` int64.
            items: `[B]` int64.
        """
        self.steps += 1
        since = self.steps - 1 - self.warmup
        if since < 0:
            return network.popularity.new_zeros(len(users))
        if self._network is None:
            with torch.random.fork_rng(devices=[]):  # the weights that it is born with are drawn in vain
                made = type(network).build(network.catalogue, network.hyperparameters)
            made.load_state_dict(self._weights or network.state_dict())  # those of a checkpoint, if there was one
            self._network = made.to(network.popularity.device).eval().requires_grad_(False)
            self._weights = {}
        if since and since % self.interval == 0:
            for average, weight in zip(self._network.parameters(), network.parameters(), strict=True):
                average.lerp_(weight, 1 - self.decay)
        (user, user_place), (item, item_place) = (torch.unique(ids, return_inverse=True) for ids in (users, items))
        of_users, of_items = self._network.encode(user, item)
        assert of_users is not None and of_items is not None
        return torch.sigmoid((of_users[user_place] * of_items[item_place]).sum(-1))

    def state_dict(self) -> dict[str, Any]:
        """Steps so far, and the weights of the copy."""
        weights = self._weights if self._network is None else self._network.state_dict()
        return {"steps": self.steps, "weights": dict(weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict()`; the weights are taken over at the next step."""
        self.reset()
        self.steps, self._weights = state["steps"], dict(state["weights"])
