"""How scores become probabilities: softmax, epsilon-greedy, uniform over the best k."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from recsys.simulation.off_policy.policies import PolicyError


class Chosen(NamedTuple):
    """Probabilities of some columns of a block of scores.

    Attributes:
        probability: `[b, C']` float.
        column: `[b, C']` int64, the columns of the scores; None: all of them, in order.
    """

    probability: Tensor
    column: Tensor | None = None


class Choice(Protocol):
    """Turns scores into probabilities."""

    def __call__(self, scores: Tensor) -> Chosen:
        """`[b, C]` scores, `-inf` where there is no action; a row has one at least."""


class Softmax:
    """`exp(score / temperature)`, normalised.

    Args:
        temperature: towards 0 the best action alone, above 1 flatter than the scores.

    Raises:
        PolicyError: the temperature is not positive.

    Example:
        >>> Softmax(0.5)(torch.tensor([[0.0, 0.5 * 1.0986123, -torch.inf]])).probability.round(decimals=4).tolist()
        [[0.25, 0.75, 0.0]]
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise PolicyError(f"a softmax needs a positive temperature, not {temperature}")
        self.temperature = temperature

    def __call__(self, scores: Tensor) -> Chosen:
        return Chosen(torch.softmax(scores if self.temperature == 1 else scores / self.temperature, dim=1))


class EpsilonGreedy:
    """The best action, and any with a chance of `epsilon` (the best among them).

    Args:
        epsilon: between 0 and 1. Equal scores: the first column is the best.

    Raises:
        PolicyError: epsilon is no share.

    Example:
        >>> EpsilonGreedy(0.5)(torch.tensor([[3.0, 1.0]])).probability.tolist()
        [[0.75, 0.25]]
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        if not 0 <= epsilon <= 1:
            raise PolicyError(f"epsilon is a share between 0 and 1, not {epsilon}")
        self.epsilon = epsilon

    def __call__(self, scores: Tensor) -> Chosen:
        allowed = scores > -torch.inf
        probability = allowed * (self.epsilon / allowed.sum(1, keepdim=True))
        best = scores.argmax(1, keepdim=True)
        return Chosen(probability.scatter_add(1, best, torch.full_like(probability[:, :1], 1 - self.epsilon)))


class TopKUniform:
    """Each of the k best actions alike.

    Args:
        k: number of actions; fewer where there are fewer.

    Raises:
        PolicyError: k is not positive.

    Example:
        >>> TopKUniform(2)(torch.tensor([[3.0, 1.0, 2.0]])).column.tolist()
        [[0, 2]]
    """

    def __init__(self, k: int = 10) -> None:
        if k < 1:
            raise PolicyError(f"at least one action is chosen, not {k}")
        self.k = k

    def __call__(self, scores: Tensor) -> Chosen:
        best = scores.topk(min(self.k, scores.shape[1]), dim=1)
        allowed = (best.values > -torch.inf).to(scores.dtype)
        return Chosen(allowed / allowed.sum(1, keepdim=True), best.indices)
