"""How sharply losses tell the positives of a pool apart: one temperature, or one of each user."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class Temperature(abc.ABC):
    """What losses are divided by before the softmax.

    It is on the scale of the losses, and so of the scores: another loss, norm of the embeddings or negative sampler
    changes what a fixed number means. `StandardizedTemperature` does not depend on that scale.
    """

    _learned: dict[str, Tensor]

    @property
    def flat(self) -> bool:
        """Whether it is infinite always, so that losses decide nothing and need not be known."""
        return False

    def setup(self, n_users: int, device: torch.device) -> None:
        """Fits it to the users 1..n_users; called once before training."""
        self._learned = self.initial(n_users, device)

    def initial(self, n_users: int, device: torch.device) -> dict[str, Tensor]:
        """What it has learned before the first step, by name."""
        return {}

    @abc.abstractmethod
    def of(self, losses: Tensor, users: Tensor, epoch: int) -> Tensor:
        """Temperatures of pools.

        Args:
            losses: `[B, k]`, which it may learn from.
            users: `[B]` int64.
            epoch: from 0.

        Returns:
            Positive, `[]` or `[B, 1]`.
        """

    def state_dict(self) -> dict[str, Any]:
        """What it has learned, for the checkpoint."""
        return {name: value.clone() for name, value in self._learned.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict()`."""
        for name, value in state.items():
            self._learned[name].copy_(value)


class FixedTemperature(Temperature):
    """The same for everybody.

    Args:
        value: infinite makes every choice uniform.

    Raises:
        ValueError: it is not above 0.

    Example:
        >>> FixedTemperature(0.5).of(torch.zeros(2, 3), torch.tensor([1, 2]), epoch=0)
        tensor(0.5000)
    """

    def __init__(self, value: float = 0.1) -> None:
        self.value = _positive("FixedTemperature", value)

    @property
    def flat(self) -> bool:
        return math.isinf(self.value)

    @override
    def of(self, losses: Tensor, users: Tensor, epoch: int) -> Tensor:
        return losses.new_tensor(self.value)


class AnnealedTemperature(Temperature):
    """From `first` to `last` by equal factors an epoch.

    Args:
        first: until epoch `start`.
        last: from epoch `end`.
        start: epoch, from 0.
        end: epoch.

    Raises:
        ValueError: a temperature is not above 0, or `end` is not after `start`.

    Example:
        >>> AnnealedTemperature(1.0, 0.01, start=0, end=2).of(torch.zeros(1, 1), torch.tensor([1]), epoch=1)
        tensor(0.1000)
    """

    def __init__(self, first: float = 1.0, last: float = 0.1, start: int = 5, end: int = 30) -> None:
        if end <= start:
            raise ValueError(f"AnnealedTemperature: end {end} is not after start {start}")
        self.first, self.last = _positive("AnnealedTemperature", first), _positive("AnnealedTemperature", last)
        self.start, self.end = start, end

    @override
    def of(self, losses: Tensor, users: Tensor, epoch: int) -> Tensor:
        done = min(max((epoch - self.start) / (self.end - self.start), 0.0), 1.0)
        return losses.new_tensor(self.first ** (1 - done) * self.last**done)


class PersonalTemperature(Temperature):
    """One of each user, from running moments of the user's losses, those of the step among them.

    A subclass says what it makes of mean and standard deviation.

    Args:
        scale: factor.
        decay: what is left of a user's moments after a step that the user is in.
        least: smallest standard deviation.

    Raises:
        ValueError: `scale` or `least` is not above 0, or `decay` is not in [0, 1).
    """

    def __init__(self, scale: float, decay: float, least: float) -> None:
        name = type(self).__name__
        self.scale, self.least = _positive(name, scale), _positive(name, least)
        if not 0 <= decay < 1:
            raise ValueError(f"{name}: decay must be in [0, 1), not {decay}")
        self.decay = decay

    @override
    def initial(self, n_users: int, device: torch.device) -> dict[str, Tensor]:
        """Weight of what was seen, and with it mean and mean of squares, `[n_users + 1, 3]`."""
        return {"moments": torch.zeros(n_users + 1, 3, dtype=torch.float64, device=device)}

    @abc.abstractmethod
    def from_moments(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """Temperatures `[B]` from means `[B]` and standard deviations `[B]`, at least `least`, of users' losses."""

    @override
    def of(self, losses: Tensor, users: Tensor, epoch: int) -> Tensor:
        distinct, place = torch.unique(users, return_inverse=True)
        rows = torch.stack([torch.ones_like(losses), losses, losses.square()], -1).double().mean(1)
        sums = rows.new_zeros(len(distinct), 3).index_add_(0, place, rows)
        new = sums / sums[:, :1]
        moments = self._learned["moments"]
        moments[distinct] = self.decay * moments[distinct] + (1 - self.decay) * new
        weight, mean, square = moments[users].unbind(-1)
        mean, square = mean / weight, square / weight
        deviation = (square - mean.square()).clamp(min=0).sqrt().clamp(min=self.least)
        return self.from_moments(mean, deviation).to(losses.dtype).unsqueeze(-1)


class StandardizedTemperature(PersonalTemperature):
    """Proportional to the standard deviation of the user's losses: `softmax(-(l - mean) / (scale * deviation))`.

    Args:
        scale: in standard deviations, and so comparable between users, losses and data sets.
        decay: what is left of a user's moments after a step that the user is in.
        least: smallest standard deviation.

    Raises:
        ValueError: `scale` or `least` is not above 0, or `decay` is not in [0, 1).

    Example:
        >>> temperature = StandardizedTemperature(scale=0.5)
        >>> temperature.setup(n_users=1, device=torch.device("cpu"))
        >>> temperature.of(torch.tensor([[1.0, 3.0]]), torch.tensor([1]), epoch=0)  # of deviation 1
        tensor([[0.5000]])
    """

    def __init__(self, scale: float = 0.5, decay: float = 0.9, least: float = 0.02) -> None:
        super().__init__(scale, decay, least)

    @override
    def from_moments(self, mean: Tensor, deviation: Tensor) -> Tensor:
        return self.scale * deviation


class VariationTemperature(PersonalTemperature):
    """Lower where a user's losses are widely spread: `scale * mean / (deviation / mean)`.

    The quotient of deviation and mean, the coefficient of variation, is clipped to [1/4, 4]. A wide spread may tell of
    two kinds of positives, and the choice is then sharper.

    Args:
        scale: the temperature of a user whose losses have mean 1 and deviation 1.
        decay: what is left of a user's moments after a step that the user is in.
        least: smallest standard deviation.

    Raises:
        ValueError: `scale` or `least` is not above 0, or `decay` is not in [0, 1).

    Example:
        >>> temperature = VariationTemperature(scale=0.1)
        >>> temperature.setup(n_users=1, device=torch.device("cpu"))
        >>> temperature.of(torch.tensor([[1.0, 3.0]]), torch.tensor([1]), epoch=0)  # 0.1 * 2 / (1 / 2)
        tensor([[0.4000]])
    """

    def __init__(self, scale: float = 0.1, decay: float = 0.9, least: float = 0.02) -> None:
        super().__init__(scale, decay, least)

    @override
    def from_moments(self, mean: Tensor, deviation: Tensor) -> Tensor:
        mean = mean.clamp(min=torch.finfo(torch.float32).tiny)
        return self.scale * mean / (deviation / mean).clamp(0.25, 4.0)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name}: must be above 0, not {value}")
    return value
