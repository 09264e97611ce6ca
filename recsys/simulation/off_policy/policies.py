"""Evaluation policies: how likely each action of a round is, a block of rounds at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import as_written


class PolicyError(ValueError):
    """A policy that does not fit a log, or gives no probabilities."""


class Block(NamedTuple):
    """Probabilities of a few rounds.

    Attributes:
        probability: `[b, C]` float, a row sums to 1.
        actions: `[b, C]` int64, code of the action of each column; -1 is an action that the log does not know, or none
            where the probability is 0. None: column `a` is action `a`.
    """

    probability: Tensor
    actions: Tensor | None = None

    def of(self, action: Tensor) -> Tensor:
        """`[b]` probabilities of one action `[b]` int64 a round; 0 where it has no column."""
        if self.actions is None:
            return self.probability.gather(1, action[:, None]).squeeze(1)
        return torch.where(self.actions == action[:, None], self.probability, 0).sum(1)


class Policy(Protocol):
    """Chooses an action for each round of a log. Blocks are all that is ever held of its probabilities."""

    def width(self, log: BanditLog) -> int:
        """Columns that a round takes while its block is made."""

    def block(self, log: BanditLog, rounds: NDArray[np.int64]) -> Block:
        """Probabilities of rounds `[b]`."""


class TablePolicy:
    """Probabilities from a table: rounds of one group share them.

    Args:
        probability: `[G, A]` float64, a row sums to 1.
        group: `[N]` int64, the row of each round of the log.

    Raises:
        PolicyError: a row is no distribution, or a group has no row.

    Example:
        >>> table = pd.DataFrame({"action": ["a", "b"], "reward": [1, 0], "propensity": [0.5, 0.5]})
        >>> log = BanditLog.from_frame(table)
        >>> policy = TablePolicy.from_frame(log, pd.DataFrame({"action": ["a", "b"], "probability": [0.9, 0.1]}))
        >>> policy.block(log, np.array([1])).probability.tolist()
        [[0.9, 0.1]]
    """

    def __init__(self, probability: NDArray[np.floating], group: NDArray[np.int64]) -> None:
        sums = probability.sum(1)
        if not (probability >= 0).all() or not (np.abs(sums - 1) < 1e-6).all():
            bad = int(((np.abs(sums - 1) >= 1e-6) | ~(probability >= 0).all(1)).argmax())
            raise PolicyError(
                f"the probabilities of group {bad} sum to {sums[bad]:.6g}, the least is {probability[bad].min():.3g}; "
                "give each action a number from 0 on, with a sum of 1"
            )
        if group.min(initial=0) < 0 or group.max(initial=0) >= len(probability):
            raise PolicyError(f"group {group.max()} of a round has no row; there are {len(probability)} rows")
        self.probability, self.group = torch.from_numpy(np.ascontiguousarray(probability)), group

    @classmethod
    def from_frame(cls, log: BanditLog, frame: pd.DataFrame, by: Sequence[str] = ()) -> TablePolicy:
        """Reads a table with a row for each action and group.

        Args:
            log: whose rounds are meant.
            frame: columns `action`, `probability` and those of `by`. Actions without a row in a group have no chance
                there.
            by: columns of frame and log that tell the groups apart, such as the position or a segment of users.

        Raises:
            PolicyError: a column is missing, log and table do not know each other's actions or groups, or there is no
                distribution.
        """
        for name in ("action", "probability", *by):
            if name not in frame.columns:
                raise PolicyError(f"the policy's table has no column `{name}`; it has {', '.join(frame.columns)}")
            if name in by and name not in log.table.columns:
                raise PolicyError(f"{log.origin}: no column `{name}`, by which the policy's table tells groups apart")
        if not pd.api.types.is_numeric_dtype(frame["probability"].dtype):
            raise PolicyError("`probability` of the policy's table is no column of numbers; give each row its chance")
        action = log.actions.get_indexer(pd.Index(frame["action"]))
        if (action < 0).any():
            stranger = as_written(frame["action"].iloc[int((action < 0).argmax())])
            raise PolicyError(
                f"{log.origin}: the policy recommends {stranger}, which is no action of the log, such as "
                f"{as_written(log.actions[0])}; name all actions by `actions` when the log is read"
            )
        unknown = np.ones(log.n_actions, dtype=np.bool_)
        unknown[action] = False
        if unknown[log.action].any():
            row = int(unknown[log.action].argmax())
            raise PolicyError(
                f"{log.origin}: the action {as_written(log.actions[log.action[row]])} of row {row} is unknown to the "
                "policy; give it a row in the policy's table, with probability 0 where it is never recommended"
            )
        groups, row_group, group = 1, np.zeros(len(frame), np.int64), np.zeros(len(log), np.int64)
        if by:
            keys = pd.MultiIndex.from_frame(frame[list(by)])
            distinct = keys.unique()
            groups, row_group = len(distinct), distinct.get_indexer(keys)
            group = distinct.get_indexer(pd.MultiIndex.from_frame(log.table[list(by)]))
            if (group < 0).any():
                row = int((group < 0).argmax())
                named = ", ".join(f"{name} {as_written(log.table[name].iloc[row])}" for name in by)
                raise PolicyError(f"{log.origin}: the policy's table has no group of {named}, that of row {row}")
        cells = row_group * log.n_actions + action
        if len(np.unique(cells)) < len(cells):
            raise PolicyError("the policy's table names an action twice in one group; name each once")
        probability = np.zeros((groups, log.n_actions))
        probability[row_group, action] = frame["probability"].to_numpy(dtype=np.float64)
        return cls(probability, group.astype(np.int64))

    def width(self, log: BanditLog) -> int:
        return self.probability.shape[1]

    def block(self, log: BanditLog, rounds: NDArray[np.int64]) -> Block:
        return Block(self.probability[torch.from_numpy(self.group[rounds])])
