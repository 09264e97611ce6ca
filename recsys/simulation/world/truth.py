"""The true value of a policy: clicks a session that it can expect."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recsys.simulation.world.histories import Histories
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.seeds import generator
from recsys.simulation.world.world import World


class Value(NamedTuple):
    """What a policy is worth.

    Attributes:
        mean: expected clicks a session, users weighted by how often they come.
        standard_error: of the lists that were drawn; 0 where the mean is exact.
        by_user: `[n]` float64, expected clicks a session of each user.
    """

    mean: float
    standard_error: float
    by_user: Tensor


def policy_value(
    world: World,
    policy: Policy,
    length: int = 10,
    *,
    users: Tensor | None = None,
    histories: Histories | None = None,
    day: float = 0.0,
    draws: int = 32,
    seed: int = 0,
) -> Value:
    """The true value of a policy on a day, novelty left out.

    It is exact where lists are deterministic, or hold one item. Otherwise lists are drawn, and clicks on them are still
    expectations: the error is that of the lists alone.

    Args:
        world: the truth.
        policy: which lists.
        length: of the lists.
        users: `[n]` int64, whose sessions count; None: everybody's.
        histories: what they have consumed; None: those of the world.
        day: of the tastes.
        draws: lists drawn for each user by a stochastic policy, at least 2.
        seed: of the draws.

    Raises:
        ValueError: there are fewer than 2 draws, or none of the users ever comes.
    """
    if draws < 2:
        raise ValueError(f"draws must be at least 2, so that their error is known, not {draws}")
    users = torch.arange(1, world.n_users + 1) if users is None else users
    histories = world.histories if histories is None else histories
    weight = world.visits.rate[users].double()
    if not weight.sum() > 0:
        raise ValueError("none of the users ever comes: give some of them a rate above 0")
    random = generator(seed, "value")
    values, variances = [], []
    for some in users.split(policy.block(length)):
        ranked = policy.rank(some, histories, length)
        if not policy.stochastic:
            lists = policy.choose(ranked, length, random)[0]
            values.append(world.expected_clicks(some, lists, day).double().sum(1))
            variances.append(torch.zeros(len(some), dtype=torch.float64))
        elif length == 1:
            one = ranked.items.flatten().unsqueeze(1)
            clicks = world.expected_clicks(some.repeat_interleave(ranked.items.shape[1]), one, day)
            values.append((policy.rule.first(ranked.scores) * clicks.view_as(ranked.items)).sum(1))
            variances.append(torch.zeros(len(some), dtype=torch.float64))
        else:
            drawn = torch.stack(
                [
                    world.expected_clicks(some, policy.choose(ranked, length, random)[0], day).double().sum(1)
                    for _ in range(draws)
                ]
            )
            values.append(drawn.mean(0))
            variances.append(drawn.var(0) / draws)
    value, share = torch.cat(values), weight / weight.sum()
    error = (share**2 * torch.cat(variances)).sum().sqrt()
    return Value(float((share * value).sum()), float(error), value)
