"""What users do with the lists they are shown: one block of sessions of one day and arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.retrieval.order import TopK
from recsys.simulation.world.histories import Histories
from recsys.simulation.world.outcome import Sessions
from recsys.simulation.world.policy import Lists
from recsys.simulation.world.seeds import generator
from recsys.simulation.world.world import World


class Draws(NamedTuple):
    """A generator for each purpose."""

    lists: torch.Generator
    clicks: torch.Generator
    conversions: torch.Generator

    @classmethod
    def of(cls, seed: int, day: int, arm: int) -> Draws:
        """Of a day and an arm."""
        return cls(*(generator(seed, purpose, day, arm) for purpose in cls._fields))


def behave(
    world: World,
    lists: Lists,
    visitors: tuple[Tensor, Tensor],
    histories: Histories,
    at: tuple[int, int],
    draws: Draws,
    beside: Mapping[str, Lists],
) -> Sessions:
    """The sessions of some users of an arm on a day.

    Args:
        world: who they are.
        lists: of the arm's policy.
        visitors: different users `[n]` int64 and how often each comes, `[n]` int64.
        histories: what they have consumed before.
        at: day and number of the arm; novelty begins on day 0, for all arms but the first.
        draws: generators, moved on.
        beside: lists of policies that show nothing.
    """
    users, times = visitors
    day, arm = at
    row = torch.repeat_interleave(torch.arange(len(users)), times)
    user = users[row]
    ranked = lists.of(users, histories)
    items, choice = lists.policy.choose(_rows(ranked, row), lists.length, draws.lists)
    shown = items != 0
    relevance = world.preferences.relevance(user, items, day)
    new = world.novelty is not None and arm > 0 and day >= 0
    factor = world.novelty.factor(day) if new and world.novelty is not None else 1.0
    attraction = world.attracted(relevance, factor) * shown
    clicks = world.clicks.draw(attraction, shown, draws.clicks).click.bool()
    lucky = torch.rand(relevance.shape, generator=draws.conversions) < world.conversion * relevance
    return Sessions(
        day=torch.full_like(user, day),
        user=user,
        arm=torch.full_like(user, arm),
        items=items,
        propensity=choice.propensity,
        clicks=clicks,
        conversions=clicks & lucky,
        chance=world.clicks.expected(attraction, shown),
        beside={
            name: other.policy.propensity(_rows(other.of(users, histories), row), items)
            for name, other in beside.items()
        },
    )


def consumed(sessions: Sessions, n_items: int) -> tuple[Tensor, Tensor]:
    """Users and items of the clicks of a day, each pair once, by user and item."""
    row, column = sessions.clicks.nonzero(as_tuple=True)
    pairs = torch.unique(sessions.user[row] * (n_items + 1) + sessions.items[row, column])
    return pairs // (n_items + 1), pairs % (n_items + 1)


def _rows(ranked: TopK, row: Tensor) -> TopK:
    return TopK(ranked.items[row], ranked.scores[row])
