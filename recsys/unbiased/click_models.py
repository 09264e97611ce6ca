"""Simulated users: who examines which position, and clicks on what."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

EXAMINATION = (0.68, 0.61, 0.48, 0.34, 0.28, 0.20, 0.11, 0.10, 0.08, 0.06)
"""Chances that positions 1 to 10 are examined, from an eye-tracking study."""

AFTER_CLICK: tuple[tuple[float, ...], ...] = (
    (1.0,),
    (0.98, 1.0),
    (1.0, 0.62, 0.95),
    (1.0, 0.77, 0.42, 0.82),
    (1.0, 0.92, 0.55, 0.31, 0.69),
    (1.0, 0.96, 0.63, 0.4, 0.22, 0.54),
    (1.0, 0.99, 0.73, 0.46, 0.29, 0.17, 0.47),
    (1.0, 1.0, 0.89, 0.52, 0.35, 0.24, 0.14, 0.43),
    (1.0, 1.0, 0.95, 0.68, 0.4, 0.29, 0.19, 0.12, 0.41),
    (1.0, 1.0, 1.0, 0.96, 0.52, 0.36, 0.27, 0.18, 0.12, 0.43),
)
"""Chances that position r is examined when the last click was 1, 2, ... positions above; the last of each: no click."""


def perceived_relevance(label: Tensor, noise: float = 0.1, highest: int = 4) -> Tensor:
    """Chance that a document looks relevant to who examines it: `e + (1 - e) (2^y - 1) / (2^highest - 1)`.

    Args:
        label: graded relevance 0..highest, of any shape.
        noise: e, the chance of an irrelevant document.
        highest: grade that always looks relevant.

    Returns:
        float32 of the shape of `label`.

    Example:
        >>> [round(chance, 2) for chance in perceived_relevance(torch.arange(5)).tolist()]
        [0.1, 0.16, 0.28, 0.52, 1.0]
    """
    return noise + (1 - noise) * (torch.exp2(label.float()) - 1) / (2**highest - 1)


class Clicks(NamedTuple):
    """What simulated users did.

    Attributes:
        click: `[B, L]` float32 of 0 and 1.
        examined: `[B, L]` bool; a click only where it is true.
    """

    click: Tensor
    examined: Tensor


class ClickModel(abc.ABC):
    """How a user goes through a list. Lists without a click are drawn like the others, and not drawn again."""

    @abc.abstractmethod
    def draw(self, relevance: Tensor, mask: Tensor, generator: torch.Generator) -> Clicks:
        """The clicks of one user on each list.

        Args:
            relevance: `[B, L]` chance that the document looks relevant, in shown order.
            mask: `[B, L]` bool, false where a list is shorter; nothing is examined or clicked there.
            generator: of the draws.
        """

    @abc.abstractmethod
    def expected(self, relevance: Tensor, mask: Tensor) -> Tensor:
        """`[B, L]` chance of a click at each position, of the type of `relevance`; arguments as of `draw`."""


class PositionBased(ClickModel):
    """Examination depends on the position alone: `P(click) = rho_i^eta P(relevant)`.

    Args:
        examination: rho, chances at positions 1, 2, ...; later positions are examined like the last one.
        eta: severity of position bias: 0 is none, 2 is severe.

    Raises:
        ValueError: a chance is not in (0, 1], or eta is negative.

    Source:
        Craswell et al., WSDM 2008. The chances: Joachims et al., SIGIR 2005.

    Example:
        >>> PositionBased((0.5, 0.25), eta=2.0).chances(3)
        tensor([0.2500, 0.0625, 0.0625])
    """

    def __init__(self, examination: Sequence[float] = EXAMINATION, eta: float = 1.0):
        if not examination or not all(0 < chance <= 1 for chance in examination):
            raise ValueError(f"examination: chances lie above 0 and not above 1, not {tuple(examination)}")
        if not eta >= 0:
            raise ValueError(f"eta: the severity of position bias is not negative, as {eta} is")
        self.examination, self.eta = torch.tensor(examination), eta

    def chances(self, length: int) -> Tensor:
        """`[length]` float32 chances that the positions are examined."""
        at = torch.arange(length).clamp(max=len(self.examination) - 1)
        return self.examination[at] ** self.eta

    def draw(self, relevance: Tensor, mask: Tensor, generator: torch.Generator) -> Clicks:
        examined = mask & (_uniform(relevance, generator) < self.chances(relevance.shape[1]).to(relevance.device))
        return Clicks((examined & (_uniform(relevance, generator) < relevance)).float(), examined)

    def expected(self, relevance: Tensor, mask: Tensor) -> Tensor:
        return self.chances(relevance.shape[1]).to(relevance) * relevance * mask


class TrustBias(PositionBased):
    """Who examines a position trusts the ranker there: he clicks on what is irrelevant, and more so near the top.

    `P(click) = rho_i^eta (P(relevant) a_i + (1 - P(relevant)) b_i)`, which is no product of a chance of the position
    and one of the document.

    Args:
        examination: as in `PositionBased`.
        eta: likewise.
        relevant: a, chances of a click on an examined relevant document at positions 1, 2, ...
        irrelevant: b, the same of an irrelevant one. Later positions are like the last one, here too.

    Source:
        Agarwal et al., "Addressing Trust Bias for Unbiased Learning-to-Rank", WWW 2019.
    """

    def __init__(
        self,
        examination: Sequence[float] = EXAMINATION,
        eta: float = 1.0,
        relevant: Sequence[float] = (0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.90, 0.89),
        irrelevant: Sequence[float] = (0.65, 0.33, 0.22, 0.16, 0.13, 0.11, 0.09, 0.08, 0.07, 0.065),
    ):
        super().__init__(examination, eta)
        self.relevant, self.irrelevant = torch.tensor(relevant), torch.tensor(irrelevant)

    def draw(self, relevance: Tensor, mask: Tensor, generator: torch.Generator) -> Clicks:
        return super().draw(self._believed(relevance), mask, generator)

    def expected(self, relevance: Tensor, mask: Tensor) -> Tensor:
        return super().expected(self._believed(relevance), mask)

    def _believed(self, relevance: Tensor) -> Tensor:
        """`[B, L]` chance of a click on what is examined."""
        at = torch.arange(relevance.shape[1])
        of_relevant, of_irrelevant = (
            chances[at.clamp(max=len(chances) - 1)].to(relevance.device) for chances in (self.relevant, self.irrelevant)
        )
        return relevance * of_relevant + (1 - relevance) * of_irrelevant


class UserBrowsing(ClickModel):
    """Examination depends on the position and on how far above the last click was.

    Args:
        examination: row r has chances at position r when the last click was 1, 2, ... positions above, and at its end
            the chance when nothing has been clicked. Later positions are like the last row.
        eta: the chances are taken to this power.

    Source:
        Dupret and Piwowarski, SIGIR 2008.
    """

    def __init__(self, examination: Sequence[Sequence[float]] = AFTER_CLICK, eta: float = 1.0):
        for row, chances in enumerate(examination, start=1):
            if len(chances) != row:
                raise ValueError(f"examination: row {row} has {len(chances)} chances instead of {row}")
        self.examination = [torch.tensor(chances) ** eta for chances in examination]

    def draw(self, relevance: Tensor, mask: Tensor, generator: torch.Generator) -> Clicks:
        last = torch.zeros(len(relevance), dtype=torch.int64, device=relevance.device)  # 0: nothing clicked yet
        looks, likes = _uniform(relevance, generator), _uniform(relevance, generator) < relevance
        examined, click = torch.zeros_like(mask), torch.zeros_like(mask)
        for column in range(relevance.shape[1]):
            row = self.examination[min(column, len(self.examination) - 1)].to(relevance.device)
            above = (column - last).clamp(max=len(row) - 2)  # columns from the place of the last click to this one
            chance = row[torch.where(last == 0, len(row) - 1, above)]
            examined[:, column] = mask[:, column] & (looks[:, column] < chance)
            click[:, column] = examined[:, column] & likes[:, column]
            last = torch.where(click[:, column], column + 1, last)
        return Clicks(click.float(), examined)

    def expected(self, relevance: Tensor, mask: Tensor) -> Tensor:
        expected = torch.zeros_like(relevance)
        state = relevance.new_zeros(len(relevance), relevance.shape[1] + 1)  # chances of the place of the last click
        state[:, 0] = 1
        for column in range(relevance.shape[1]):
            row = self.examination[min(column, len(self.examination) - 1)].to(relevance)
            last = torch.arange(column + 1, device=relevance.device)
            at = torch.where(last == 0, len(row) - 1, (column - last).clamp(max=len(row) - 2))
            click = state[:, : column + 1] * row[at] * (relevance * mask)[:, column, None]
            expected[:, column] = click.sum(1)
            state[:, : column + 1] -= click
            state[:, column + 1] = expected[:, column]
        return expected


class Cascade(ClickModel):
    """Users read from the top, and stop after a click that satisfied them.

    Args:
        satisfied: chance that a click does; 1 leaves at most one click a list.

    Source:
        Craswell et al., WSDM 2008.
    """

    def __init__(self, satisfied: float = 1.0):
        if not 0 <= satisfied <= 1:
            raise ValueError(f"satisfied: a chance lies between 0 and 1, not at {satisfied}")
        self.satisfied = satisfied

    def draw(self, relevance: Tensor, mask: Tensor, generator: torch.Generator) -> Clicks:
        liked = mask & (_uniform(relevance, generator) < relevance)
        ends = liked & (_uniform(relevance, generator) < self.satisfied)
        examined = mask & (ends.cumsum(1) - ends.long() == 0)
        return Clicks((liked & examined).float(), examined)

    def expected(self, relevance: Tensor, mask: Tensor) -> Tensor:
        shown = relevance * mask
        going_on = (1 - self.satisfied * shown).cumprod(1)
        return shown * torch.cat([torch.ones_like(shown[:, :1]), going_on[:, :-1]], dim=1)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device)
