"""What users chose and what they left, as labelled pairs: a log of events alone says nothing of what was left."""

from __future__ import annotations

import torch

from recsys.features.event_log import EventLog
from recsys.simulation.world.fitted import Pairs, events_of, popularity_of
from recsys.simulation.world.seeds import generator


def consumption_pairs(log: EventLog, *, exposure: float = 0.5, unlabeled: int = 2, seed: int = 0) -> Pairs:
    """The distinct events of a log, and drawn pairs without an event.

    What was shown is not in the log, so that it is assumed: an item was shown in proportion to `events ** exposure`. At
    0 all items were shown alike, and what is popular is what is liked. At 1 popularity is exposure alone, and says
    nothing of merit.

    Args:
        log: ids of the pairs are its own.
        exposure: see above, from 0 to 1.
        unlabeled: pairs drawn for each distinct event of a user; those that are events are left out.
        seed: of the draw.

    Raises:
        ValueError: an argument makes no sense, or every user has consumed every item.

    Example:
        >>> import pandas as pd
        >>> from recsys.features.schema import Schema
        >>> frame = pd.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "timestamp": [1, 2]})
        >>> pairs = consumption_pairs(EventLog.from_frame(frame, Schema(name="two events")), unlabeled=20)
        >>> torch.stack([pairs.user, pairs.item])[:, pairs.label == 0].unique(dim=1).tolist()
        [[1, 2], [2, 1]]
    """
    if not 0 <= exposure <= 1 or unlabeled < 1:
        raise ValueError(f"exposure lies between 0 and 1 and unlabeled is 1 at least, not {exposure} and {unlabeled}")
    users, items = events_of(log)
    size = log.n_items + 1
    events = torch.unique(users * size + items)  # ascending
    user = (events // size).repeat(unlabeled)
    weight = popularity_of(log).double()[1:] ** exposure
    random = generator(seed, "unlabeled")
    place = torch.rand(len(user), generator=random, dtype=torch.float64) * weight.sum()
    item = torch.searchsorted(weight.cumsum(0), place, right=True).clamp(max=log.n_items - 1) + 1
    key = user * size + item
    left = events[torch.searchsorted(events, key).clamp(max=len(events) - 1)] != key
    if not left.any():
        raise ValueError("no pair without an event was found: all users have consumed what there is")
    return Pairs(
        torch.cat([events // size, user[left]]),
        torch.cat([events % size, item[left]]),
        torch.cat([torch.ones(len(events)), torch.zeros(int(left.sum()))]),
    )
