"""What an estimate is a mean of, so that every interval is computed the same way."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.simulation.off_policy.rounds import Rounds


class Terms(NamedTuple):
    """An estimate `mean(base) + sum(numerator) / sum(denominator)` over N rounds.

    Attributes:
        base: `[N]` float64.
        numerator: `[N]` float64; None: there is no ratio.
        denominator: `[N]` float64, with a positive sum; None: there is no ratio.
        pull: `[N]` float64 with mean 0, how far each round pulls the estimate by what a reward model, or weights of
            clusters, learned from it, to first order; None: nothing was learned from the rounds.
    """

    base: NDArray[np.float64]
    numerator: NDArray[np.float64] | None = None
    denominator: NDArray[np.float64] | None = None
    pull: NDArray[np.float64] | None = None

    @property
    def value(self) -> float:
        """The estimate; NaN where the denominator is 0."""
        return float(self.base.mean() + self.ratio)

    @property
    def ratio(self) -> float:
        """Its second part."""
        if self.numerator is None or self.denominator is None:
            return 0.0
        below = float(self.denominator.sum())
        return float(self.numerator.sum()) / below if below > 0 else float("nan")

    def influence(self) -> NDArray[np.float64]:
        """`[N]` float64 with mean 0: how far each round pulls the estimate, to first order (delta method)."""
        pull = self.base - self.base.mean()
        if self.pull is not None:
            pull = pull + self.pull
        if self.numerator is not None and self.denominator is not None:
            pull = pull + (self.numerator - self.ratio * self.denominator) / self.denominator.mean()
        return np.asarray(pull)

    def minus(self, values: NDArray[np.float64]) -> Terms:
        """The estimate less the mean of values `[N]`."""
        return self._replace(base=self.base - values)


class Estimator(Protocol):
    """Estimates the value of a policy: the mean reward of a round under it."""

    @property
    def name(self) -> str:
        """To print."""

    def __call__(self, rounds: Rounds) -> Terms:
        """The terms of the estimate."""
