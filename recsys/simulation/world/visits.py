"""How often users come, and how many different ones have come by a day."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.simulation.world.seeds import generator


@dataclass(frozen=True)
class Visits:
    """The sessions of each user on each day are Poisson, with a rate of the user.

    Attributes:
        rate: `[n_users + 1]` float32, sessions a day; 0 for nobody.

    Raises:
        ValueError: a rate is negative or not finite, or nobody has one.
    """

    rate: Tensor

    def __post_init__(self) -> None:
        if not (torch.isfinite(self.rate).all() and (self.rate >= 0).all() and not self.rate[0]):
            raise ValueError("rate: sessions a day are finite and not negative, and 0 in row 0")

    @classmethod
    def gamma(cls, n_users: int, mean: float = 0.3, shape: float = 1.0, seed: int = 0) -> Visits:
        """Rates drawn from a gamma distribution: the smaller the shape, the more sessions few users make.

        Args:
            n_users: number of users.
            mean: sessions a day and user.
            shape: of the distribution.
            seed: of the draw.
        """
        if not (mean > 0 and shape > 0):
            raise ValueError(f"mean and shape must be positive, not {mean} and {shape}")
        # The inverse of the distribution function on uniform draws: torch draws gamma numbers by its global generator
        # alone.
        from scipy.stats import gamma

        uniform = torch.rand(n_users, generator=generator(seed, "rates"), dtype=torch.float64)
        rate = torch.from_numpy(gamma.ppf(uniform.numpy(), shape, scale=mean / shape)).float()
        return cls(torch.cat([torch.zeros(1), rate]))

    def draw(self, random: torch.Generator) -> Tensor:
        """Sessions of each user on one day, `[n_users + 1]` int64."""
        return torch.poisson(self.rate, generator=random).long()

    def expected_users(self, days: int) -> Tensor:
        """`[days]` float64, different users expected by the end of each day: `sum_u 1 - exp(-rate_u t)`.

        Example:
            >>> Visits(torch.tensor([0.0, 0.5, 0.5])).expected_users(2).round(decimals=3).tolist()
            [0.787, 1.264]
        """
        rate = self.rate.double()
        return torch.stack([(1 - torch.exp(-rate * day)).sum() for day in range(1, days + 1)])
