"""Pairs without an event are none, and are drawn as it is assumed that items were shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.simulation.world.consumption import consumption_pairs
from recsys.simulation.world.fitted import fit_pairs, popularity_of


def skewed(users: int = 400, items: int = 40) -> EventLog:
    """A log in which item i is chosen by a share of the users that falls with i."""
    random = np.random.default_rng(0)
    chosen = random.random((users, items)) < 0.5 / (1 + np.arange(items)) ** 0.7
    chosen[:, -1] |= ~chosen.any(1)
    user, item = np.nonzero(chosen)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": np.arange(len(user))})
    return EventLog.from_frame(pd.concat([frame, frame.head(50)]), Schema(name="skewed"))


def test_pairs_are_the_distinct_events_and_others() -> None:
    log = skewed()
    pairs = consumption_pairs(log, unlabeled=3)
    events = set(zip(log.user_ids().tolist(), log.item_id.tolist(), strict=True))
    liked = pairs.label == 1
    found = list(zip(pairs.user.tolist(), pairs.item.tolist(), strict=True))
    assert sorted(pair for pair, like in zip(found, liked.tolist(), strict=True) if like) == sorted(events)
    assert not events & {pair for pair, like in zip(found, liked.tolist(), strict=True) if not like}
    assert pairs.item.min() >= 1 and pairs.item.max() <= log.n_items


@pytest.mark.parametrize("exposure", [0.0, 0.5, 1.0])
def test_items_without_an_event_are_drawn_by_exposure(exposure: float) -> None:
    log = skewed()
    counts = popularity_of(log).numpy()[1:].astype(float)
    pairs = consumption_pairs(log, exposure=exposure, unlabeled=200)
    drawn = np.bincount(pairs.item[pairs.label == 0].numpy(), minlength=log.n_items + 1)[1:]
    matrix = np.zeros((log.n_users + 1, log.n_items + 1))
    matrix[log.user_ids(), log.item_id] = 1
    # A user is asked as often as he has events, and what he has is left out.
    asked = matrix[1:, 1:].sum(1) @ (1 - matrix[1:, 1:]) * counts**exposure / (counts**exposure).sum() * 200
    assert np.abs(drawn - asked).max() < 5 * np.sqrt(asked.max())


def test_popularity_is_merit_or_exposure_as_assumed() -> None:
    log = skewed()
    slopes = []
    for exposure in (0.0, 1.0):
        fit = fit_pairs(
            consumption_pairs(log, exposure=exposure), popularity_of(log), log.n_users, width=2, penalty=2.0, steps=100
        )
        known = np.log(popularity_of(log).numpy()[1:])
        slopes.append(np.polyfit(known, fit.preferences.item_bias.numpy()[1:], 1)[0])
    assert slopes[0] > 0.6 and abs(slopes[1]) < 0.35


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="exposure lies between"):
        consumption_pairs(skewed(), exposure=1.5)
    everything = pd.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [1, 2]})
    with pytest.raises(ValueError, match="consumed what there is"):
        consumption_pairs(EventLog.from_frame(everything, Schema(name="all")))
