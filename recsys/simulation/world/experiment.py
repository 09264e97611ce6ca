"""Experiments between policies: users are assigned to arms, come, are shown lists, click, and remember."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recsys.simulation.world.assignment import assign
from recsys.simulation.world.behaviour import Draws, behave, consumed
from recsys.simulation.world.outcome import METRICS, Outcome, Sessions
from recsys.simulation.world.policy import Lists, Policy
from recsys.simulation.world.seeds import generator
from recsys.simulation.world.world import World

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Design:
    """How an experiment is run.

    Attributes:
        days: of the experiment.
        length: of the lists.
        shares: of the arms, in their order; None: equal. What they lack to 1 takes no part.
        before: days of the pre-period, in which everybody has the control.
        salt: names the experiment; users are assigned by a hash of it and their id.
        seed: of everything that is drawn.
        grow: whether users remember what they clicked on from one day to the next. Otherwise lists depend on the
            histories at the beginning alone.
        keep: whether the outcome holds all sessions; otherwise they are summed up and forgotten.

    Raises:
        ValueError: a number is not positive.
    """

    days: int = 14
    length: int = 10
    shares: Sequence[float] | None = None
    before: int = 0
    salt: str = "experiment"
    seed: int = 0
    grow: bool = True
    keep: bool = False

    def __post_init__(self) -> None:
        if self.days < 1 or self.length < 1 or self.before < 0:
            found = f"{self.days}, {self.length} and {self.before}"
            raise ValueError(f"days and length are at least 1, and before is not negative, unlike {found}")


def simulate(
    world: World, arms: Mapping[str, Policy], design: Design | None = None, beside: Mapping[str, Policy] | None = None
) -> Outcome:
    """Runs an experiment in a world.

    Args:
        world: is not changed.
        arms: policies by name; the first is the control, which everybody has in the pre-period.
        design: how it is run.
        beside: policies that show nothing; each session says how likely they would have shown its list.

    Returns:
        The sums of every user, and all sessions where the design keeps them.

    Raises:
        ValueError: a policy knows another catalogue, there are no arms, or their shares do not fit.

    Example:
        >>> from recsys.simulation.world.latent_model import LatentModel
        >>> from recsys.simulation.world.preferences import planted
        >>> from recsys.simulation.world.visits import Visits
        >>> truth = planted(2000, 50, agreement=0.0)
        >>> world = World.of(truth, Visits.gamma(2000))
        >>> popular = Policy(LatentModel.of(truth, preference=0, popularity=1))
        >>> arms = {"control": popular, "treatment": Policy(LatentModel.of(truth))}
        >>> outcome = simulate(world, arms, Design(days=3))
        >>> outcome.per_session("treatment") > outcome.per_session("control")
        True
    """
    design = design or Design()
    arm = assigned(world, arms, design)
    shape = world.n_users + 1
    sums = {name: np.zeros((design.days, shape), np.float32) for name in METRICS}
    before = {name: np.zeros((design.before, shape), np.float32) for name in METRICS}
    kept: list[Sessions] = []
    for part in stream(world, arms, design, beside):
        day = int(part.day[0])
        into = sums if day >= 0 else before
        rows = day if day >= 0 else day + design.before
        user = part.user.numpy()  # ascending
        values = {"clicks": part.clicks, "conversions": part.conversions, "expected_clicks": part.chance}
        span = slice(user[0], user[-1] + 1)
        into["sessions"][rows, span] += np.bincount(user - user[0])
        for name, value in values.items():
            into[name][rows, span] += np.bincount(user - user[0], value.sum(1).numpy())
        if design.keep:
            kept.append(part)
    return Outcome(tuple(arms), arm, sums, before, Sessions.cat(kept) if kept else None)


def assigned(world: World, arms: Mapping[str, Policy], design: Design) -> np.ndarray:
    """`[n_users + 1]` int64, number of the arm of each user; -1 takes no part.

    Raises:
        ValueError: as `simulate`.
    """
    if not arms:
        raise ValueError("arms: name at least one policy")
    for name, policy in arms.items():
        if policy.n_items != world.n_items:
            raise ValueError(
                f"arm `{name}` ranks {policy.n_items} items and the world has {world.n_items}; give the policy a model "
                "of the world's items, or the ids by which the model knows them"
            )
    shares = [1 / len(arms)] * len(arms) if design.shares is None else list(design.shares)
    if len(shares) != len(arms):
        raise ValueError(f"there are {len(shares)} shares for {len(arms)} arms")
    arm = assign(np.arange(world.n_users + 1), shares, design.salt)
    arm[0] = -1
    return arm


def stream(
    world: World, arms: Mapping[str, Policy], design: Design, beside: Mapping[str, Policy] | None = None
) -> Iterator[Sessions]:
    """The sessions of an experiment, day by day in blocks of one arm; arguments and errors as in `simulate`.

    Users who take no part are not simulated. Lists are those of the histories at the start of a day.
    """
    arm = torch.from_numpy(assigned(world, arms, design))
    lists = [Lists(policy, world.n_users, design.length) for policy in arms.values()]
    others = {name: Lists(policy, world.n_users, design.length) for name, policy in (beside or {}).items()}
    histories = world.histories
    for day in range(-design.before, design.days):
        running = arm.clamp(max=0) if day < 0 else arm
        times = world.visits.draw(generator(design.seed, "visits", day))
        events: list[tuple[Tensor, Tensor]] = []
        for number, of_arm in enumerate(lists):
            visitors = ((running == number) & (times > 0)).nonzero().squeeze(1)
            draws = Draws.of(design.seed, day, number)
            block = min(each.policy.block(design.length) for each in (of_arm, *others.values()))
            for users in _blocks(visitors, times[visitors], block):
                part = behave(world, of_arm, (users, times[users]), histories, (day, number), draws, others)
                if design.grow:
                    events.append(consumed(part, world.n_items))
                yield part
        if events:
            who, what = (torch.cat(column) for column in zip(*events, strict=True))
            histories = histories.grown(who, what, world.start + (day + design.before) * SECONDS_PER_DAY)


def _blocks(users: Tensor, times: Tensor, size: int) -> Sequence[Tensor]:
    """Users in their order, cut where `size` sessions are full: no block has more, but for the last user of it."""
    if not len(users):
        return ()
    block = (times.cumsum(0) - times) // size
    return users.split(torch.unique_consecutive(block, return_counts=True)[1].tolist())


def remember(world: World, sessions: Sessions) -> World:
    """The world after sessions: what was clicked on is in the histories, and time has gone on.

    Experiments count their days from 0 again, so that tastes that drift are those of the beginning.

    Args:
        world: whose users they are.
        sessions: that a design kept.

    Raises:
        ValueError: there are no sessions.
    """
    histories, first, last = world.histories, int(sessions.day.min()), int(sessions.day.max())
    for day in range(first, last + 1):
        who, what = consumed(sessions.where(sessions.day == day), world.n_items)
        histories = histories.grown(who, what, world.start + (day - first) * SECONDS_PER_DAY)
    return replace(world, histories=histories, start=world.start + (last - first + 1) * SECONDS_PER_DAY)
