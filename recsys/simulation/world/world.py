"""The world: users with preferences, how they click, how often they come, and what they have consumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from recsys.simulation.world.histories import Histories
from recsys.simulation.world.preferences import Preferences
from recsys.simulation.world.visits import Visits
from recsys.unbiased.click_models import ClickModel, PositionBased


class Novelty(NamedTuple):
    """What is new attracts more, for a while: attraction times `1 + lift 2^(-days / half_life)`.

    Attributes:
        lift: on the first day of a new policy.
        half_life: days after which half of the lift is left.
    """

    lift: float
    half_life: float

    def factor(self, days: float) -> float:
        """By how much attraction is multiplied, days after a policy came.

        Example:
            >>> Novelty(0.2, half_life=7).factor(7)
            1.1
        """
        return 1 + self.lift * 2 ** (-days / self.half_life)


@dataclass(frozen=True)
class World:
    """Everything that is true, and what of it shows.

    What an examined item attracts a click with is `noise + (1 - noise) relevance`, times the factor of novelty where
    a policy is new, and at most 1. How the user goes through a list is the click model's. A click becomes a conversion
    with the chance `conversion x relevance`. A consumed item is as relevant as before: policies leave it out.

    Attributes:
        preferences: true relevance.
        visits: how often users come.
        clicks: how they go through a list; what it calls relevance is the attraction.
        histories: what they have consumed before the first day.
        noise: attraction of what is not relevant.
        conversion: chance that a click on what is relevant converts.
        novelty: effect of a policy that is new; None: none.
        start: Unix seconds of the first day that is simulated, after all events of the histories.

    Raises:
        ValueError: a chance lies outside 0..1, or parts are of different numbers of users.

    Example:
        >>> import torch
        >>> from recsys.simulation.world.preferences import planted
        >>> world = World.of(planted(10, 20), Visits.gamma(10))
        >>> world.attraction(torch.tensor([1]), torch.tensor([[4, 0]])).shape
        torch.Size([1, 2])
    """

    preferences: Preferences
    visits: Visits
    histories: Histories
    clicks: ClickModel = field(default_factory=PositionBased)
    noise: float = 0.0
    conversion: float = 0.1
    novelty: Novelty | None = None
    start: int = 1_600_000_000

    def __post_init__(self) -> None:
        for name in ("noise", "conversion"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a chance between 0 and 1, not {getattr(self, name)}")
        users = self.preferences.n_users, len(self.visits.rate) - 1, len(self.histories.offsets) - 2
        if len(set(users)) > 1:
            raise ValueError(f"preferences, visits and histories are of {users} users; give all of them the same")

    @classmethod
    def of(cls, preferences: Preferences, visits: Visits, histories: Histories | None = None, **others: Any) -> World:
        """A world in which nobody has consumed anything, unless histories are given.

        Args:
            preferences: true relevance.
            visits: how often users come.
            histories: what they have consumed; None: nothing.
            others: further attributes by name.
        """
        histories = Histories.empty(preferences.n_users) if histories is None else histories
        return cls(preferences, visits, histories, **others)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.preferences.n_users

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.preferences.n_items

    def attraction(self, users: Tensor, items: Tensor, day: float = 0.0, factor: float | Tensor = 1.0) -> Tensor:
        """Chance that examined items are clicked by users.

        Args:
            users: `[n]` int64.
            items: `[n, L]` int64, 0 where a list is shorter.
            day: days since the world began.
            factor: of novelty, one or `[n, 1]`.

        Returns:
            `[n, L]` float32.
        """
        return self.attracted(self.preferences.relevance(users, items, day), factor) * (items != 0)

    def attracted(self, relevance: Tensor, factor: float | Tensor = 1.0) -> Tensor:
        """The same of known relevance, of any shape; what is no item must be left out by the caller."""
        return ((self.noise + (1 - self.noise) * relevance) * factor).clamp(max=1.0)

    def expected_clicks(self, users: Tensor, items: Tensor, day: float = 0.0) -> Tensor:
        """`[n, L]` float32, true chance of a click at each position of lists `[n, L]`, without novelty."""
        return self.clicks.expected(self.attraction(users, items, day), items != 0)
