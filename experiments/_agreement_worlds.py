"""Worlds and policies of the study of agreement between judges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from recsys.features.datasets import load_dataset
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.user_shares import UserShares
from recsys.models.als import ALS
from recsys.models.item_item import BM25, Cosine
from recsys.models.popularity import Popularity
from recsys.models.recommender import FittedRecommender
from recsys.simulation.world.fitted import fit_preferences
from recsys.simulation.world.latent_model import LatentModel
from recsys.simulation.world.model_ids import ModelIds
from recsys.simulation.world.outcome import Sessions
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.preferences import Preferences, partners, planted
from recsys.simulation.world.rules import EpsilonGreedy
from recsys.simulation.world.seeds import generator
from recsys.simulation.world.visits import Visits
from recsys.simulation.world.world import World

LIKED = 4
"""Least rating, in stars, of what a user of MovieLens liked."""
EXPLORING = 0.2
"""How often a policy shows any item, so that its weights have a limit."""


def planted_world(users: int, items: int, seed: int) -> World:
    """What is popular has nothing to do with what is liked."""
    return World.of(planted(users, items, agreement=0.0, seed=seed), Visits.gamma(users, mean=0.5, seed=seed))


def movielens_world(users: int, items: int, seed: int) -> World:
    """Users drawn with replacement from those of MovieLens-100K, and items from all degrees of its popularity."""
    source = load_dataset("movielens_100k")
    events = source.schema.events.model_copy(update={"weight": "rating"})
    log = EventLog.from_frame(source.events, source.schema.model_copy(update={"events": events}), items=source.items)
    truth = fit_preferences(log, np.asarray(log.columns["weight"]) >= LIKED, seed=seed).preferences
    random = generator(seed, "resampled")
    who = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randint(1, log.n_users + 1, (users,), generator=random)])
    order = truth.popularity[1:].argsort(descending=True)[: 4 * items] + 1
    which = torch.cat([torch.zeros(1, dtype=torch.int64), order[:: max(1, len(order) // items)][:items]])
    resampled = replace(
        truth,
        users=truth.users[who],
        user_bias=truth.user_bias[who],
        items=truth.items[which],
        item_bias=truth.item_bias[which],
        popularity=truth.popularity[which],
        partner=partners(users, seed),
    )
    return World.of(resampled, Visits.gamma(users, mean=0.5, seed=seed))


WORLDS = {"planted": planted_world, "movielens": movielens_world}


def clicks_of(sessions: Sessions, start: int) -> EventLog:
    """The clicks of sessions as a log for models, whose raw ids are those of the world."""
    row, column = sessions.clicks.nonzero(as_tuple=True)
    frame = pd.DataFrame(
        {
            "user_id": sessions.user[row].numpy(),
            "item_id": sessions.items[row, column].numpy(),
            "timestamp": start + sessions.day[row].numpy() * 86_400,
        }
    )
    return EventLog.from_frame(frame, Schema(name="simulated clicks"))


def noisy(truth: Preferences, noise: float, popularity: float, seed: int) -> LatentModel:
    """Knows tastes up to normal noise, and leans on popularity."""
    spread = noise * float(truth.users[1:].std())
    moved = truth.users + spread * torch.randn(truth.users.shape, generator=generator(seed, "noisy", str(noise)))
    return LatentModel.of(replace(truth, users=moved), popularity=popularity)


def policies_of(world: World, log: EventLog, seed: int) -> dict[str, Policy]:
    """Models trained on biased clicks, and models that know more or less of the truth; all of them explore alike."""
    split = UserShares(train=0.9, test=0.1)(log)
    ids = ModelIds.of_log(log, world.n_users, world.n_items)
    trained: dict[str, FittedRecommender] = {
        "popular": Popularity(),
        "cosine": Cosine(),
        "bm25": BM25(),
        "als 4": ALS(factors=4, seed=seed),
        "als 32": ALS(factors=32, seed=seed),
    }
    found = {}
    for name, model in trained.items():
        model.fit(split)
        found[name] = Policy(model, EpsilonGreedy(EXPLORING), ids=ids)
    truth = world.preferences
    known = {
        "fame": LatentModel.of(truth, preference=0.0, popularity=1.0),
        "taste": noisy(truth, 1.0, 0.0, seed),
        "vague taste": noisy(truth, 2.0, 0.0, seed),
        "taste and fame": noisy(truth, 1.0, 1.0, seed),
        "appeal": LatentModel.of(replace(truth, users=torch.zeros_like(truth.users))),
    }
    return found | {name: Policy(model, EpsilonGreedy(EXPLORING)) for name, model in known.items()}
