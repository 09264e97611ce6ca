"""Simulated sessions as logged rounds, for off-policy estimators, and policies of the world as they judge them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.policies import Block
from recsys.simulation.world.histories import Histories
from recsys.simulation.world.outcome import Sessions
from recsys.simulation.world.policy import Policy


def bandit_table(sessions: Sessions) -> pd.DataFrame:
    """A row for each shown item, with the default names of `LogColumns`.

    Returns:
        `user_id`, `slate_id` (number of the session), `position` (from 1), `action` (the item), `reward` (the click),
        `propensity` (the chance of the item at its position given those above it), `day`, and a column
        `propensity_NAME` for each policy beside.
    """
    row, column = sessions.items.nonzero(as_tuple=True)
    beside = {f"propensity_{name}": values[row, column].numpy() for name, values in sessions.beside.items()}
    return pd.DataFrame(
        {
            "user_id": sessions.user[row].numpy(),
            "slate_id": row.numpy(),
            "position": column.numpy() + 1,
            "action": sessions.items[row, column].numpy(),
            "reward": sessions.clicks[row, column].double().numpy(),
            "propensity": sessions.propensity[row, column].numpy(),
            "day": sessions.day[row].numpy(),
            **beside,
        }
    )


def bandit_log(sessions: Sessions, n_items: int) -> BanditLog:
    """Sessions with lists of one item as a log over the whole catalogue, in which rounds of one user are neighbours.

    Args:
        sessions: with `[S, 1]` items; lists of several make a table of slates by `bandit_table`.
        n_items: size of the catalogue.

    Raises:
        ValueError: lists hold several items.
    """
    if sessions.items.shape[1] != 1:
        raise ValueError(
            f"lists hold {sessions.items.shape[1]} items; run the design with length 1, or use bandit_table"
        )
    table = bandit_table(sessions).drop(columns=["slate_id"]).sort_values("user_id", kind="stable", ignore_index=True)
    return BanditLog.from_frame(table, actions=pd.RangeIndex(1, n_items + 1), origin="the simulated log")


class FirstItem:
    """A policy of the world for a log of lists of one item, as off-policy estimators ask it.

    Args:
        policy: whose first position is meant.
        histories: of the users when the log was made: they must not have grown meanwhile (`Design.grow`).
    """

    def __init__(self, policy: Policy, histories: Histories) -> None:
        self.policy, self.histories = policy, histories

    def width(self, log: BanditLog) -> int:
        return self.policy.candidates(1)

    def block(self, log: BanditLog, rounds: NDArray[np.int64]) -> Block:
        """Probabilities of rounds `[b]`, by the column `user_id` of the log."""
        users = torch.from_numpy(log.table["user_id"].to_numpy()[rounds])
        distinct, row = torch.unique(users, return_inverse=True)
        ranked = self.policy.rank(distinct, self.histories, 1)
        return Block(self.policy.rule.first(ranked.scores)[row], ranked.items[row] - 1)
