"""Planted worlds of the tests."""

from __future__ import annotations

import numpy as np

from recsys.simulation.off_policy.planted_rounds import PlantedRounds


def world(groups: int = 3, actions: int = 5, seed: int = 0) -> PlantedRounds:
    """A world whose policies overlap everywhere."""
    random = np.random.default_rng(seed)
    click = random.uniform(0.05, 0.6, (groups, actions))
    logging, target = (random.dirichlet(np.full(actions, alpha), groups) * 0.8 + 0.2 / actions for alpha in (2, 1))
    return PlantedRounds(click, logging, target)
