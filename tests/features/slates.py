"""A small log with queries and actions, and slates beside it, for the tests of slates."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema

USERS, EVENTS, ITEMS, LONGEST = 12, 10, 30, 5
WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil"])


def schema() -> Schema:
    return Schema.parse(
        {
            "name": "toy",
            "events": {"query": "query", "action": "action"},
            "features": [
                {"name": "title", "column": "title", "type": "text", "table": "words"},
                {"name": "asked", "type": "text", "entity": "query", "table": "words"},
            ],
        }
    )


def tables(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events, some of which share a second, and items."""
    random = np.random.default_rng(seed)
    user = np.repeat([f"u{number:02}" for number in range(USERS)], EVENTS)
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, ITEMS, len(user))})
    events["timestamp"] = 1_000_000 + 10 * random.integers(0, 60, len(user))
    events["action"] = np.where(random.random(len(user)) < 0.5, "view", "buy")
    events["query"] = pd.Series(WORDS[random.integers(0, 6, len(user))]).where(random.random(len(user)) < 0.3)
    items = pd.DataFrame({"item_id": range(ITEMS)})
    items["title"] = [" ".join(WORDS[random.integers(0, 6, 3)]) for _ in range(ITEMS)]
    return events, items


def toy_log(seed: int = 0) -> EventLog:
    events, items = tables(seed)
    return EventLog.from_frame(events, schema(), items)


def shown(n: int = 60, seed: int = 1, unknown: float = 0.0) -> pd.DataFrame:
    """Slates of 1 to 5 items, rows in any order; some users and items may be unknown to the log."""
    random = np.random.default_rng(seed)
    rows = []
    for request in range(n):
        user = f"u{random.integers(0, USERS):02}" if random.random() >= unknown else "nobody"
        query = str(random.choice([*WORDS, "red oil", "never seen"])) if random.random() < 0.4 else None
        items = random.permutation(ITEMS + round(30 * unknown))[: random.integers(1, LONGEST + 1)]
        common = {"request_id": f"r{request:03}", "user_id": user, "query": query, "device": int(random.integers(2))}
        common["timestamp"] = 1_000_000 + int(random.integers(-50, 650))
        rows += [
            common | {"position": place, "item_id": int(item), "click": int(random.random() < 0.4)}
            for place, item in enumerate(items, start=1)
        ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed).reset_index(drop=True)
