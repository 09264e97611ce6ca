"""Planted worlds: what every action earns is known, so that values and variances have a closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog, LogColumns
from recsys.simulation.off_policy.policies import TablePolicy

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """G groups of users of equal size, A actions, clicks.

    Attributes:
        click: `[G, A]` chance of a click.
        logging: `[G, A]` chances of the logging policy.
        target: `[G, A]` chances of the policy that is evaluated.
    """

    click: Matrix
    logging: Matrix
    target: Matrix

    @property
    def value(self) -> float:
        return float((self.target * self.click).sum(1).mean())

    @property
    def ipw_variance(self) -> float:
        """Of a round's weighted reward: clicks are 0 or 1, so that a square is a click."""
        return float((self.target**2 / self.logging * self.click).sum(1).mean()) - self.value**2

    def dr_variance(self, q: Matrix) -> float:
        """Of a round's term, for predictions `[G, A]` that do not depend on the log."""
        expected = (self.target * q).sum(1)
        weight = self.target / self.logging
        # Mean of the square over groups, actions and clicks.
        clicked = (expected[:, None] + weight * (1 - q)) ** 2
        passed = (expected[:, None] - weight * q) ** 2
        square = (self.logging * (self.click * clicked + (1 - self.click) * passed)).sum(1).mean()
        return float(square) - self.value**2

    def draw(self, rounds: int, seed: int) -> BanditLog:
        random = np.random.default_rng(seed)
        group = random.integers(0, len(self.click), rounds)
        action = (random.random(rounds)[:, None] > self.logging.cumsum(1)[group]).sum(1)
        table = pd.DataFrame(
            {
                "group": group,
                "action": action,
                "reward": (random.random(rounds) < self.click[group, action]).astype(float),
                "propensity": self.logging[group, action],
            }
        )
        return BanditLog.from_frame(table, LogColumns(context=("group",)), actions=range(self.click.shape[1]))

    def policy(self, log: BanditLog, probability: Matrix | None = None) -> TablePolicy:
        chances = self.target if probability is None else probability
        return TablePolicy(chances, log.table["group"].to_numpy())


def world(groups: int = 3, actions: int = 5, seed: int = 0) -> World:
    """A world whose policies overlap everywhere."""
    random = np.random.default_rng(seed)
    click = random.uniform(0.05, 0.6, (groups, actions))
    logging, target = (random.dirichlet(np.full(actions, alpha), groups) * 0.8 + 0.2 / actions for alpha in (2, 1))
    return World(click, logging, target)
