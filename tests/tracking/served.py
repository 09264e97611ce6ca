"""Small models of every kind, ready to be asked."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.als import ALS
from recsys.models.bpr import BPR
from recsys.models.item_item import Cosine
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.models.popularity import Popularity
from recsys.models.recommender import Recommender
from recsys.models.synergen import SynerGen
from recsys.tracking.bundle import Bundle
from recsys.tracking.bundle_server import BundleServer
from recsys.tracking.history import History

USERS, ITEMS, LENGTH = 40, 30, 4
WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil", "balm"])


class Served(NamedTuple):
    bundle: Bundle
    log: EventLog
    split: Split
    server: BundleServer


def served(model: Callable[[Split], Recommender], queries: bool = True, integers: bool = True) -> Served:
    """A model on a log of strings or integers, with or without queries and actions."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), random.integers(3, 9, USERS))
    events = pd.DataFrame({"user_id": users + 500, "item_id": random.integers(100, 100 + ITEMS, len(users))})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    items = pd.DataFrame({"item_id": np.arange(100, 100 + ITEMS)})
    items["name"] = [" ".join(random.choice(WORDS, 3, replace=False)) for _ in range(ITEMS)]
    if not integers:
        events = events.assign(user_id="u" + events["user_id"].astype(str), item_id="i" + events["item_id"].astype(str))
        items["item_id"] = "i" + items["item_id"].astype(str)
    schema = {"name": "shop", "title": "name"}
    if queries:
        asked = random.random(len(events)) < 0.5
        events["query"] = pd.Series(WORDS[random.integers(0, len(WORDS), len(events))]).where(asked)
        events["kind"] = np.array(["buy", "view"])[random.integers(0, 2, len(events))]
        schema["events"] = {"query": "query", "action": "kind"}
        schema["features"] = [
            {"name": "words", "column": "name", "type": "text"},
            {"name": "asked", "type": "text", "entity": "query", "table": "words"},
        ]
    log = EventLog.from_frame(events, Schema.parse(schema), items)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = LeaveLastOut()(log)
        torch.manual_seed(0)
        made = model(split)
    length = LENGTH if isinstance(made, SynerGen) else None
    bundle = Bundle.of(made, log, split.hash, length)
    return Served(bundle, log, split, BundleServer(bundle, "7"))


def synergen(split: Split) -> SynerGen:
    return SynerGen(Catalogue.from_split(split, LENGTH), width=16, layers=1, heads=2, ranking=True).eval()


def factors(split: Split) -> MatrixFactorization:
    return MatrixFactorization(Catalogue.from_split(split, interactions=True), width=4).eval()


def fitted(model: ALS | BPR | Cosine | Popularity) -> Callable[[Split], Recommender]:
    def fit(split: Split) -> Recommender:
        model.fit(split)
        return model

    return fit


MODELS = {
    "synergen": synergen,
    "factors": factors,
    "als": fitted(ALS(factors=4)),
    "bpr": fitted(BPR(factors=4, iterations=3)),
    "cosine": fitted(Cosine()),
    "popularity": fitted(Popularity()),
}


def raw(made: Served, items: np.ndarray) -> list[str]:
    return [str(item) for item in made.bundle.items.decode(items)]


def frame_of(made: Served, users: range) -> pd.DataFrame:
    """Everything that the log knows of users."""
    past = [History.of_user(made.log, user) for user in users]
    frame = pd.DataFrame(
        {
            "user_id": [str(value) for value in made.log.users.decode(list(users))],
            "history": [raw(made, history.items) for history in past],
            "history_times": [history.times.tolist() for history in past],
        }
    )
    if made.log.schema.of("query"):
        names = ["", *made.log.vocabularies["action"].values]
        frame["history_queries"] = [[text or "" for text in history.queries] for history in past]
        frame["history_actions"] = [[names[code] for code in history.actions] for history in past]
    return frame
