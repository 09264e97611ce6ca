"""Weights for the targets of a user's window by their losses, for models that read histories."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class TargetWeights(abc.ABC):
    """What the targets of a window, the events of a user in a batch, count by `softmax(-loss / temperature)` over it.

    Windows count as before: the weights of a window have mean 1. A window of one target is left as it is. Losses are
    those of the training pass itself, with its dropout, so that weights cost no second pass of the network.

    Args:
        temperature: on the scale of the losses; infinite weighs all alike.
        floor: share of the weight that is spread evenly over the window.
        start: steps, at the beginning, in which targets count alike.

    Raises:
        ValueError: the temperature is not above 0, `floor` is not in [0, 1), or `start` is negative.
    """

    def __init__(self, temperature: float = 1.0, floor: float = 0.0, start: int = 0) -> None:
        name = type(self).__name__
        if not temperature > 0:
            raise ValueError(f"{name}: temperature must be above 0, not {temperature}")
        if not 0 <= floor < 1:
            raise ValueError(f"{name}: floor must be in [0, 1), not {floor}")
        if start < 0:
            raise ValueError(f"{name}: start must be at least 0, not {start}")
        self.temperature, self.floor, self.start = temperature, floor, start
        self.generator = torch.Generator()
        self.steps = 0

    def setup(self, seed: int, device: torch.device) -> None:
        """Seeds the generator; called once before training."""
        self.generator = torch.Generator(device).manual_seed(seed)

    @torch.no_grad()
    def __call__(self, losses: Tensor, offsets: Tensor, valid: Tensor) -> Tensor:
        """The weights of a step.

        Args:
            losses: `[T]` of the targets, windows one after the other.
            offsets: `[B + 1]` int64, where each window begins and ends.
            valid: `[T]` bool, which events have a target; others get 0.

        Returns:
            `[T]`, of the type of `losses`.
        """
        self.steps += 1
        temperature = self.temperature if self.steps > self.start else torch.inf
        window = torch.repeat_interleave(offsets.diff())
        logits = torch.where(valid, -losses / temperature, -torch.inf)
        highest = logits.new_full((len(offsets) - 1,), -torch.inf).scatter_reduce(0, window, logits, "amax")
        relative = torch.where(valid, (logits - highest[window]).exp(), 0.0)
        sums = torch.stack([relative, valid.to(relative.dtype)], 1)
        total, n = relative.new_zeros(len(highest), 2).index_add(0, window, sums).unbind(1)
        weights = relative * (n / total.clamp(min=torch.finfo(total.dtype).tiny))[window]
        return self.of_shares((1 - self.floor) * weights + self.floor * valid.to(weights.dtype), offsets, valid)

    @abc.abstractmethod
    def of_shares(self, shares: Tensor, offsets: Tensor, valid: Tensor) -> Tensor:
        """Weights from the shares `[T]` of the softmax, of mean 1 in each window; the rest as in `__call__`."""

    def state_dict(self) -> dict[str, Any]:
        """Steps, and state of the generator."""
        return {"steps": self.steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict()`."""
        self.steps = state["steps"]
        self.generator.set_state(state["generator"].cpu())


class PersonalTargetWeights(TargetWeights):
    """Each target counts by its share of the softmax.

    Args:
        temperature: on the scale of the losses; infinite weighs all alike.
        floor: share of the weight that is spread evenly over the window.
        start: steps, at the beginning, in which targets count alike.

    Raises:
        ValueError: the temperature is not above 0, `floor` is not in [0, 1), or `start` is negative.

    Source:
        After Zhang et al., "Personalized Denoising Implicit Feedback for Robust Recommender System", WWW 2025
        (arXiv 2502.00348), which chooses among a user's pairs.

    Example:
        >>> losses, offsets = torch.tensor([1.0, 1.0, 50.0, 2.0]), torch.tensor([0, 3, 4])
        >>> PersonalTargetWeights(0.1)(losses, offsets, torch.ones(4, dtype=torch.bool))
        tensor([1.5000, 1.5000, 0.0000, 1.0000])
    """

    @override
    def of_shares(self, shares: Tensor, offsets: Tensor, valid: Tensor) -> Tensor:
        return shares


class PersonalTargetResampling(TargetWeights):
    """As many targets are drawn from each window as it has, by their shares, and count as often as they are drawn.

    The expectation is that of `PersonalTargetWeights`.

    Args:
        temperature: on the scale of the losses; infinite draws all alike.
        floor: share of the draws that is uniform over the window.
        start: steps, at the beginning, in which all are drawn alike.

    Raises:
        ValueError: the temperature is not above 0, `floor` is not in [0, 1), or `start` is negative.

    Source:
        After Zhang et al., "Personalized Denoising Implicit Feedback for Robust Recommender System", WWW 2025
        (arXiv 2502.00348), which chooses among a user's pairs.
    """

    @override
    def of_shares(self, shares: Tensor, offsets: Tensor, valid: Tensor) -> Tensor:
        ends = torch.nn.functional.pad(shares.double().cumsum(0), (1, 0))
        window = torch.repeat_interleave(offsets.diff())
        first, mass = ends[offsets[:-1]], ends[offsets].diff()
        uniform = torch.rand(len(shares), generator=self.generator, device=shares.device, dtype=torch.float64)
        drawn = torch.searchsorted(ends[1:], first[window] + uniform * mass[window], right=True)
        drawn = torch.minimum(drawn, offsets[1:][window] - 1)  # rounding must not reach into the next window
        return torch.zeros_like(shares).index_add_(0, drawn[valid], torch.ones_like(shares)[valid])
