"""How a list is chosen from scored candidates, and how likely each choice was.

A list is filled from the top. The propensity at a position is the chance of its item given the items above it: at the
first position it is the marginal chance, and the product over the positions is the chance of the list.
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Choice(NamedTuple):
    """Lists of S sessions.

    Attributes:
        columns: `[S, L]` int64, which candidates, from the top.
        propensity: `[S, L]` float64, chance of each given those above; 1 where no candidate was left.
    """

    columns: Tensor
    propensity: Tensor


class Rule(abc.ABC):
    """A way to choose.

    Attributes:
        stochastic: whether two sessions with the same candidates may get different lists.
    """

    stochastic: ClassVar[bool] = True

    @abc.abstractmethod
    def draw(self, scores: Tensor, length: int, random: torch.Generator) -> Choice:
        """Chooses a list for each session.

        Args:
            scores: `[S, C]` float32, best first; `-inf` where a session has fewer candidates.
            length: L, at most C.
            random: of the draws.
        """

    @abc.abstractmethod
    def propensity(self, scores: Tensor, columns: Tensor) -> Tensor:
        """How likely the rule makes given lists.

        Args:
            scores: `[S, C]` as in `draw`.
            columns: `[S, L]` int64, which candidates, from the top; -1 for what is none.

        Returns:
            `[S, L]` float64, chance of each given those above; 0 for what is no candidate.
        """

    @abc.abstractmethod
    def first(self, scores: Tensor) -> Tensor:
        """`[S, C]` float64, the chance of each candidate to stand at the first position."""


class EpsilonGreedy(Rule):
    """At each position the best candidate left, or with chance epsilon any of those left, the best one among them.

    Args:
        epsilon: chance of exploring; 1 is uniform over the candidates.

    Raises:
        ValueError: it lies outside 0..1.

    Example:
        >>> scores = torch.tensor([[3.0, 2.0, 1.0]])
        >>> EpsilonGreedy(0.3).propensity(scores, torch.tensor([[0, 2]])).round(decimals=3).tolist()
        [[0.8, 0.15]]
    """

    def __init__(self, epsilon: float) -> None:
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon is a chance between 0 and 1, not {epsilon}")
        self.epsilon = epsilon

    def draw(self, scores: Tensor, length: int, random: torch.Generator) -> Choice:
        left = torch.isfinite(scores)
        columns = torch.zeros(len(scores), length, dtype=torch.int64)
        for position in range(length):
            explore = torch.rand(len(scores), generator=random) < self.epsilon
            nth = (torch.rand(len(scores), generator=random, dtype=torch.float64) * left.sum(1)).long()
            # The nth candidate left, and the best one is the first; a full scan is needed of those who explore alone.
            column = left.byte().argmax(1)
            rows = explore.nonzero().squeeze(1)
            place = left[rows].cumsum(1) == nth[rows].unsqueeze(1) + 1
            column[rows] = place.byte().argmax(1)
            column = torch.where(left.any(1), column, left.shape[1] - 1)  # nothing is left: a column of no candidate
            columns[:, position] = column
            left.scatter_(1, column.unsqueeze(1), False)
        return Choice(columns, self.propensity(scores, columns))

    def propensity(self, scores: Tensor, columns: Tensor) -> Tensor:
        left = torch.isfinite(scores)
        chances = torch.zeros(columns.shape, dtype=torch.float64)
        for position in range(columns.shape[1]):
            column = columns[:, position].unsqueeze(1)
            known = (column >= 0) & left.gather(1, column.clamp(min=0))
            count = left.sum(1, keepdim=True)
            best = column == left.byte().argmax(1, keepdim=True)
            chance = (1 - self.epsilon) * best.double() + self.epsilon / count.clamp(min=1)
            chances[:, position] = torch.where(count > 0, chance * known, 1.0).squeeze(1)
            left.scatter_(1, column.clamp(min=0), left.gather(1, column.clamp(min=0)) & ~known)
        return chances

    def first(self, scores: Tensor) -> Tensor:
        known = torch.isfinite(scores).double()
        chances = self.epsilon * known / known.sum(1, keepdim=True).clamp(min=1)
        chances[:, 0] += (1 - self.epsilon) * known[:, 0]
        return chances


class Greedy(EpsilonGreedy):
    """The best candidates in their order."""

    stochastic = False

    def __init__(self) -> None:
        super().__init__(0.0)

    def draw(self, scores: Tensor, length: int, random: torch.Generator) -> Choice:
        columns = torch.arange(length).expand(len(scores), -1)
        return Choice(columns, torch.ones(columns.shape, dtype=torch.float64))


class PlackettLuce(Rule):
    """Each position by a softmax over the scores of the candidates left.

    Lists are drawn at once: the L largest of the scores with Gumbel noise are such a list.

    Args:
        temperature: scores are divided by it; infinite: uniform over the candidates.

    Raises:
        ValueError: it is not positive.

    Source:
        Plackett, "The Analysis of Permutations", Applied Statistics 1975. By Gumbel noise: Kool, van Hoof, Welling,
        "Stochastic Beams and Where to Find Them", ICML 2019.

    Example:
        >>> scores = torch.tensor([[2.0, 1.0, 1.0]]).log()
        >>> PlackettLuce().propensity(scores, torch.tensor([[0, 1]])).round(decimals=3).tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def draw(self, scores: Tensor, length: int, random: torch.Generator) -> Choice:
        noise = torch.empty_like(scores).exponential_(generator=random).log_().neg_()
        noisy = self._logits(scores) + noise
        columns = noisy.topk(length, dim=1).indices
        return Choice(columns, self.propensity(scores, columns))

    def propensity(self, scores: Tensor, columns: Tensor) -> Tensor:
        logits = F.pad(self._logits(scores.double()), (0, 1), value=-torch.inf)
        column = torch.where(columns >= 0, columns, scores.shape[1])
        chosen = logits.gather(1, column)
        # What is left at a position is what no position takes, and what this one and those below take: a sum of
        # positive numbers, where to subtract would cancel.
        rest = logits.scatter(1, column, -torch.inf).logsumexp(1, keepdim=True)
        left = torch.cat([rest, chosen.flip(1)], dim=1).logcumsumexp(1)[:, 1:].flip(1)
        chance = torch.where(chosen > -torch.inf, chosen - left, -torch.inf).exp()
        return torch.where((columns >= 0) & (left == -torch.inf), 1.0, chance)

    def first(self, scores: Tensor) -> Tensor:
        return self._logits(scores.double()).softmax(1).nan_to_num(0.0)

    def _logits(self, scores: Tensor) -> Tensor:
        # What is no candidate stays none where the temperature is infinite: -inf / inf is no number.
        return (scores / self.temperature).masked_fill_(~torch.isfinite(scores), -torch.inf)
