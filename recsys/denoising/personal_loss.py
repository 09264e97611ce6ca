"""Training on the positives of a user that have low losses among the user's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from recsys.denoising.temperature import FixedTemperature, Temperature
from recsys.denoising.weighting import PoolWeighting


def choice_logits(losses: Tensor, temperature: Tensor, floor: float = 0.0) -> Tensor:
    """Logits of choosing each positive of a pool, `-l / temperature`.

    Args:
        losses: `[B, k]`.
        temperature: positive, `[]` or `[B, 1]`; infinite makes all logits 0.
        floor: share of the choices that is uniform whatever the losses, in [0, 1).

    Returns:
        `[B, k]`; with a floor, logarithms of the chances.

    Example:
        >>> losses = torch.tensor([[0.0, 0.1]])
        >>> choice_logits(losses, torch.tensor(0.1)).softmax(-1)
        tensor([[0.7311, 0.2689]])
        >>> choice_logits(losses, torch.tensor(0.1), floor=0.5).exp()
        tensor([[0.6155, 0.3845]])
    """
    logits = -losses / temperature
    if not floor:
        return logits
    return ((1 - floor) * logits.softmax(-1) + floor / losses.shape[1]).log()


def choose(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draws one column of each row with the chances `softmax(logits)`.

    The Gumbel form takes the largest of the logits plus noise: no chance underflows, however far the logits lie apart.

    Args:
        logits: `[B, k]`.
        generator: draws as many numbers whatever the logits.

    Returns:
        `[B]` int64.
    """
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)


def effective_size(logits: Tensor) -> Tensor:
    """The exponential of the entropy of each row's chances `softmax(logits)`: among how many it chooses, in effect.

    Args:
        logits: `[B, k]`.

    Returns:
        `[B]`, from 1, of one positive that is always chosen, to k.

    Example:
        >>> effective_size(torch.tensor([[0.0, 0.0, 0.0], [0.0, -100.0, -100.0]]))
        tensor([3., 1.])
    """
    log_p = logits.log_softmax(-1)
    return torch.special.entr(log_p.exp()).sum(-1).exp()


class PersonalLossWeights(PoolWeighting):
    """All positives of a pool count, each by `softmax(-loss / temperature)` over the pool.

    The gradient is the expectation of that of `PersonalLossResampling`, without its variance, at the cost of training
    on whole pools. Weights have no gradient.

    Args:
        temperature: of the softmax; a number is a `FixedTemperature`.
        floor: share of the weight that is spread evenly. Without one, what a user with a short profile likes against
            all other likings may never be trained on.
        start: epochs, at the beginning, in which positives count alike. Before anything is learned all losses are the
            same; late in training noise is memorised, and has low losses too.

    Raises:
        ValueError: the temperature is not above 0, `floor` is not in [0, 1), or `start` is negative.

    Source:
        Zhang et al., "Personalized Denoising Implicit Feedback for Robust Recommender System", WWW 2025
        (arXiv 2502.00348); floor and weights in place of a choice are additions.
    """

    def __init__(self, temperature: float | Temperature = 0.1, floor: float = 0.0, start: int = 5) -> None:
        super().__init__()
        self.temperature = temperature if isinstance(temperature, Temperature) else FixedTemperature(temperature)
        if not 0 <= floor < 1:
            raise ValueError(f"{type(self).__name__}: floor must be in [0, 1), not {floor}")
        if start < 0:
            raise ValueError(f"{type(self).__name__}: start must be at least 0, not {start}")
        self.floor, self.start = floor, start

    def setup(self, n_users: int, seed: int, device: torch.device) -> None:
        super().setup(n_users, seed, device)
        self.temperature.setup(n_users, device)

    @override
    def reads_losses(self, epoch: int) -> bool:
        return epoch >= self.start and not self.temperature.flat

    @override
    def weights(self, losses: Tensor, users: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        if self.reads_losses(epoch):
            logits = choice_logits(losses, self.temperature.of(losses, users, epoch), self.floor)
        else:
            logits = torch.zeros_like(losses)
        return self.of_logits(logits), {"effective_pool_size": effective_size(logits).mean()}

    def of_logits(self, logits: Tensor) -> Tensor:
        """Weights `[B, k]` from the logits of a choice `[B, k]`."""
        return logits.softmax(-1)

    @override
    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"temperature": self.temperature.state_dict()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.temperature.load_state_dict(state["temperature"])


class PersonalLossResampling(PersonalLossWeights):
    """One positive of each pool is trained on, drawn by `softmax(-loss / temperature)` over the pool.

    Nothing undoes the choice: what it trains on is meant to be other than what users had. With an infinite temperature
    it draws uniformly, by the same numbers.

    Where noisy losses have mean m2 and deviation s2, the others m1 and s1, all of them normal, and pools are large, the
    odds of training on noise change by the factor

        exp(-(m2 - m1) / t + (s2^2 - s1^2) / (2 t^2))

    at temperature t. Noise that is spread more than what is not is thus rewarded where t is too low; otherwise a lower
    t is stronger. A pool that is all noise gives noise at any temperature. Hard positives that are no noise have high
    losses as well: watch recall of rare items, and the effective pool size, as noise goes down.

    Args:
        temperature: of the softmax; a number is a `FixedTemperature`.
        floor: share of the choices that is uniform. Without one, what a user with a short profile likes against all
            other likings may never be trained on.
        start: epochs, at the beginning, in which the choice is uniform. Before anything is learned all losses are the
            same; late in training noise is memorised, and has low losses too.

    Raises:
        ValueError: the temperature is not above 0, `floor` is not in [0, 1), or `start` is negative.

    Source:
        Zhang et al., "Personalized Denoising Implicit Feedback for Robust Recommender System", WWW 2025
        (arXiv 2502.00348), PLD; the floor is an addition.
    """

    @override
    def of_logits(self, logits: Tensor) -> Tensor:
        return F.one_hot(choose(logits, self.generator), logits.shape[1]).to(logits.dtype)
