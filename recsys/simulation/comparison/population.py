"""The users of an experiment: each is like one of a log, and some are new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.optimize import brentq
from torch import Tensor

from recsys.features.event_log import EventLog
from recsys.features.vocabulary import Vocabulary
from recsys.simulation.world.experiment import SECONDS_PER_DAY
from recsys.simulation.world.histories import Histories
from recsys.simulation.world.model_ids import ModelIds
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.preferences import Preferences, partners
from recsys.simulation.world.seeds import generator
from recsys.simulation.world.visits import Visits
from recsys.simulation.world.world import World

_LOGITS = 20.0
_CEILING = 0.99
"""Share of the most clicks that there can be, from which on nobody is better than the champion."""
_MOST_USERS = 5000
"""Users by whom the level of clicks is set."""


class PopulationError(ValueError):
    """A world that cannot be made of a log; the message says what to change."""


@dataclass(frozen=True)
class Population:
    """A world, and whom of a log each of its users is like.

    Attributes:
        world: whose users have the tastes of the log's.
        source: `[n_users + 1]` int64, user of the log; 0 for 0.
        new: `[n_users + 1]` bool, who has no history and is known to no model.
    """

    world: World
    source: Tensor
    new: Tensor

    @classmethod
    def of_log(
        cls,
        log: EventLog,
        preferences: Preferences,
        *,
        users: int | None = None,
        new_share: float = 0.1,
        visits: float = 0.3,
        seed: int = 0,
    ) -> Population:
        """Users drawn from those of a log without replacement, again from all of them when all were drawn.

        Args:
            log: whose events are their histories.
            preferences: of the users of the log.
            users: how many; None: as many as the log has.
            new_share: share of them who have the taste of their user and none of the history.
            visits: mean sessions a day and user.
            seed: of all draws.

        Raises:
            PopulationError: the share or the number of users make no sense.
        """
        n = log.n_users if users is None else users
        if n < 2 or not 0 <= new_share < 1:
            raise PopulationError(
                f"an experiment needs two users, and a share of new ones from 0 to 1, not {n} and {new_share}"
            )
        random = generator(seed, "population")
        rounds = [torch.randperm(log.n_users, generator=random) + 1 for _ in range(-(-n // log.n_users))]
        source = torch.cat([torch.zeros(1, dtype=torch.int64), *rounds])[: n + 1]
        new = torch.rand(n + 1, generator=random) < new_share
        new[0] = False
        drawn = replace(
            preferences,
            users=preferences.users[source],
            user_bias=preferences.user_bias[source],
            partner=partners(n, seed),
        )
        start = int(log.timestamp.max()) + SECONDS_PER_DAY
        histories = _histories(Histories.of_log(log), source * ~new)
        return cls(World.of(drawn, Visits.gamma(n, visits, seed=seed), histories, start=start), source, new)

    @property
    def visitors(self) -> float:
        """Different users to be expected on a day."""
        return float(self.world.visits.expected_users(1)[0])

    def ids(self, log: EventLog, items: Vocabulary, n_items: int, users: Vocabulary | None) -> ModelIds:
        """The ids by which a model knows the users and items.

        Args:
            log: of the population.
            items: raw item id to id, of the model.
            n_items: that the model has.
            users: raw user id to id, of the model; None: it knows nobody by id.

        Raises:
            PopulationError: the model recommends an item that is not in the log.
        """
        item = torch.from_numpy(items.encode(log.items.values))
        item = torch.where((item > 0) & (item <= n_items), item, 0)
        if int((item > 0).sum()) < n_items:
            raise PopulationError(
                f"the model recommends {n_items - int((item > 0).sum())} items that are not in the log `"
                f"{log.schema.name}`; name the newest log of all models by --log"
            )
        user = torch.zeros(log.n_users, dtype=torch.int64)
        if users is not None:
            user = torch.from_numpy(users.encode(log.users.values))
            user = torch.where(user <= len(users), user, 0)
        nobody = torch.zeros(1, dtype=torch.int64)
        return ModelIds(torch.cat([nobody, item]), torch.cat([nobody, user])[self.source * ~self.new])

    def with_level(self, policy: Policy, clicks: float, length: int) -> Population:
        """With all items as much more or less relevant as makes a policy get so many clicks a visit.

        Args:
            policy: such as the champion, whose level is known.
            clicks: mean clicks a visit, on its lists of the first day.
            length: of the lists.

        Raises:
            PopulationError: no relevance gives so many.
        """
        world = self.world
        users = torch.arange(1, world.n_users + 1)[:_MOST_USERS]
        random = generator(0, "level")
        ranked = policy.rank(users, world.histories, length)
        lists = policy.choose(ranked, length, random)[0]
        weight = world.visits.rate[users].double()

        def excess(logit: float) -> float:
            shifted = replace(world, preferences=world.preferences.shifted(logit))
            return float((weight * shifted.expected_clicks(users, lists).double().sum(1)).sum() / weight.sum()) - clicks

        logit = _root(excess, clicks)
        return replace(self, world=replace(world, preferences=world.preferences.shifted(logit)))


def _root(excess: Callable[[float], float], clicks: float) -> float:
    least, most = excess(-_LOGITS) + clicks, excess(_LOGITS) + clicks
    if not least < clicks < _CEILING * most:
        raise PopulationError(
            f"lists of this length get between {least:.3g} and {most:.3g} clicks a visit, not {clicks:g}, which must "
            "leave something to gain; give longer lists, or another number of clicks"
        )
    return float(brentq(excess, -_LOGITS, _LOGITS, xtol=1e-4))


def _histories(histories: Histories, source: Tensor) -> Histories:
    """The histories of users `[n + 1]` of a log, one after the other; 0 has none."""
    batch = histories.of(source)
    return Histories(batch.item_id, batch.timestamp, torch.cat([torch.zeros(1, dtype=torch.int64), batch.offsets[1:]]))
