"""Planted worlds: what every action earns is known, so that values and variances have a closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import LogColumns
from recsys.simulation.off_policy.policies import TablePolicy

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class PlantedRounds:
    """Rounds with clicks, of G groups of users that are equally likely, over A actions.

    Attributes:
        click: `[G, A]` chance of a click.
        logging: `[G, A]` chances of the logging policy, above 0 where variances are asked for.
        target: `[G, A]` chances of the policy that is evaluated.

    Example:
        >>> one = np.array([[0.5, 0.5]])
        >>> planted = PlantedRounds(np.array([[0.2, 0.4]]), one, np.array([[0.0, 1.0]]))
        >>> planted.value, round(planted.ipw_variance, 4), len(planted.draw(10, 0))
        (0.4, 0.64, 10)
    """

    click: Matrix
    logging: Matrix
    target: Matrix

    @property
    def value(self) -> float:
        """Of the policy that is evaluated: clicks a round."""
        return float((self.target * self.click).sum(1).mean())

    @property
    def ipw_variance(self) -> float:
        """Of the weighted reward of a round: a click is its own square."""
        return float((self.target**2 / self.logging * self.click).sum(1).mean()) - self.value**2

    def dr_variance(self, q: Matrix) -> float:
        """Of the doubly robust term of a round, for predictions `[G, A]` that do not depend on the log."""
        expected = (self.target * q).sum(1, keepdims=True)
        weight = self.target / self.logging
        clicked, passed = (expected + weight * (1 - q)) ** 2, (expected - weight * q) ** 2
        square = (self.logging * (self.click * clicked + (1 - self.click) * passed)).sum(1).mean()
        return float(square) - self.value**2

    @property
    def snipw_variance(self) -> float:
        """Of a round, in the limit of many: `E[w^2 (r - value)^2]`."""
        weight, value = self.target / self.logging, self.value
        square = self.click * (1 - value) ** 2 + (1 - self.click) * value**2
        return float((self.logging * weight**2 * square).sum(1).mean())

    def draw(self, rounds: int, seed: int) -> BanditLog:
        """A log with the column `group`, all actions known."""
        random = np.random.default_rng(seed)
        group = random.integers(0, len(self.click), rounds)
        action = (random.random(rounds)[:, None] > self.logging.cumsum(1)[group, :-1]).sum(1)
        table = pd.DataFrame(
            {
                "group": group,
                "action": action,
                "reward": (random.random(rounds) < self.click[group, action]).astype(np.float64),
                "propensity": self.logging[group, action],
            }
        )
        return BanditLog.from_frame(table, LogColumns(context=("group",)), actions=range(self.click.shape[1]))

    def policy(self, log: BanditLog, probability: Matrix | None = None) -> TablePolicy:
        """The policy that is evaluated, or another one `[G, A]`, on a log of this world."""
        return TablePolicy(self.target if probability is None else probability, log.table["group"].to_numpy())
