"""Small worlds and policies."""

from __future__ import annotations

from typing import Any

from recsys.simulation.world.latent_model import LatentModel
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.preferences import planted
from recsys.simulation.world.rules import Rule
from recsys.simulation.world.visits import Visits
from recsys.simulation.world.world import World


def small(n_users: int = 2_000, n_items: int = 40, visits: float = 0.5, **others: Any) -> World:
    """A world of few items, whose popular ones are not the best."""
    truth = planted(n_users, n_items, width=4, agreement=0.0, drift=others.pop("drift", 0.0))
    return World.of(truth, Visits.gamma(n_users, mean=visits), **others)


def best(world: World, rule: Rule | None = None, **others: Any) -> Policy:
    """By the truth."""
    return Policy(LatentModel.of(world.preferences), rule, **others)


def popular(world: World, rule: Rule | None = None, **others: Any) -> Policy:
    """By popularity alone."""
    return Policy(LatentModel.of(world.preferences, preference=0.0, popularity=1.0), rule, **others)
