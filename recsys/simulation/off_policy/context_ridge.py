"""A reward model that reads the context: a linear model of the context beside a mean for each action."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import Block
from recsys.simulation.off_policy.reward_models import MeansByAction, pull_of_means, shrunk_means

BUDGET_BYTES = 64 * 2**20
"""Most memory that the products of contexts and features take at a time."""


class ContextRidge:
    """`mean of the action + (x - mean of x)' W z`, with a context `x` and features `z` of the action.

    `W` is a ridge regression of the rewards on the products, both less their shrunk means by action and position; the
    means are those of the rewards less what the context explains. Without shrinkage that is least squares with a
    constant for each action and position.

    Args:
        action_features: `[A, E]` float64, such as a category or a vector of each action; a constant is added. None: the
            context moves all actions alike.
        ridge: weight of the squares of `W`, in rounds, for contexts and features of the scale 1.
        shrinkage: of the means.

    Example:
        >>> import pandas as pd
        >>> from recsys.simulation.off_policy.log_columns import LogColumns
        >>> table = pd.DataFrame({"action": [0, 1, 0, 1], "reward": [0, 1, 2, 3], "propensity": 0.5, "x": [0, 0, 1, 1]})
        >>> log = BanditLog.from_frame(table, LogColumns(context=("x",)))
        >>> fitted = ContextRidge(ridge=0.0, shrinkage=0.0).fit(log, np.arange(4))
        >>> fitted.predict(log, np.array([0, 2]), Block(torch.zeros(2, 2))).round(decimals=4).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(
        self, action_features: NDArray[np.float64] | None = None, ridge: float = 20.0, shrinkage: float = 20.0
    ) -> None:
        self.action_features, self.ridge, self.shrinkage = action_features, ridge, shrinkage

    def fit(self, log: BanditLog, rounds: NDArray[np.int64]) -> ContextRidgeFit:
        """Learns from rounds `[n]` alone.

        Raises:
            LogError: the log has no context, or an action has no features.
        """
        if not log.context.shape[1]:
            raise LogError(f"{log.origin}: no context; name its columns by `LogColumns.context`, or use MeanByAction")
        given = np.zeros((log.n_actions, 0)) if self.action_features is None else self.action_features
        if len(given) != log.n_actions:
            raise LogError(f"{log.origin}: {log.n_actions} actions need features each, not {len(given)}")
        features = np.concatenate([np.ones((log.n_actions, 1)), given], axis=1)
        return ContextRidgeFit(log, rounds, features, self.ridge, self.shrinkage)


class ContextRidgeFit:
    """A fitted `ContextRidge`.

    Args:
        log: the log.
        rounds: `[n]` int64 that it is fitted to.
        features: `[A, F]` of the actions.
        ridge: weight of the squares.
        shrinkage: of the means.
    """

    def __init__(
        self,
        log: BanditLog,
        rounds: NDArray[np.int64],
        features: NDArray[np.float64],
        ridge: float,
        shrinkage: float,
    ) -> None:
        self._rounds, self._features, self._shrinkage = rounds, features, shrinkage
        self._centre = log.context.mean(0)
        self._cell = log.position[rounds] * log.n_actions + log.action[rounds]
        size = log.context.shape[1] * features.shape[1]
        self._mean_products = np.empty((len(log.positions) * log.n_actions, size))
        for column in range(size):
            values = np.concatenate([products[:, column] for _, products in self._products(log)])
            self._mean_products[:, column] = shrunk_means(log, rounds, values, shrinkage).reshape(-1)
        reward = log.reward[rounds]
        rest = reward - shrunk_means(log, rounds, reward, shrinkage).reshape(-1)[self._cell]
        square, right, explained = ridge * np.eye(size), np.zeros(size), np.empty(len(rounds))
        for rows, products in self._products(log):
            less = products - self._mean_products[self._cell[rows]]
            square += less.T @ less
            right += less.T @ rest[rows]
        self._inverse = np.linalg.pinv(square, hermitian=True)
        self._weights = self._inverse @ right
        for rows, products in self._products(log):
            explained[rows] = products @ self._weights
        self._left = reward - explained
        self._table = shrunk_means(log, rounds, self._left, shrinkage)
        self._means = MeansByAction(self._table, rounds, shrinkage)
        matrix = self._weights.reshape(log.context.shape[1], -1) @ features.T
        self._of_action = {kind: torch.from_numpy(matrix).to(kind) for kind in (torch.float64, torch.float32)}

    def _products(self, log: BanditLog) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Products of context and features `[b, D * F]` of the rounds that it is fitted to, in blocks."""
        step = max(1, BUDGET_BYTES // (8 * log.context.shape[1] * self._features.shape[1]))
        for first in range(0, len(self._rounds), step):
            rows = self._rounds[first : first + step]
            context, features = log.context[rows] - self._centre, self._features[log.action[rows]]
            yield slice(first, first + step), np.einsum("bd,be->bde", context, features).reshape(len(rows), -1)

    def predict(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        found = self._means.predict(log, rounds, block)
        kind = block.probability.dtype
        context = torch.from_numpy(log.context[rounds] - self._centre).to(kind)
        if block.actions is None:
            return found + context @ self._of_action[kind]
        of_action = self._of_action[kind].T[block.actions.clamp(min=0)]
        return found + torch.einsum("bd,bcd->bc", context, of_action)

    def asked(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        """`[P * A + D * F]`: the weight of each action at each position, and the weighted sum of the products."""
        features = torch.from_numpy(self._features)
        probability = block.probability.double()
        if block.actions is None:
            mean = probability @ features
        else:
            known = torch.where(block.actions >= 0, probability, 0)
            mean = torch.einsum("bc,bce->be", known, features[block.actions.clamp(min=0)])
        products = torch.from_numpy(log.context[rounds] - self._centre).T @ mean
        return torch.cat([self._means.asked(log, rounds, block).view(-1), products.reshape(-1)])

    def pull(self, log: BanditLog, asked: Tensor) -> NDArray[np.float64]:
        positions, cells = len(log.positions), len(self._mean_products)
        mass = asked[:cells].numpy()
        direction = self._inverse @ (asked[cells:].numpy() - self._mean_products.T @ mass)
        rest = self._left - self._table.reshape(-1)[self._cell]
        along, along_less = np.empty(len(rest)), np.empty(len(rest))
        for rows, products in self._products(log):
            along[rows] = products @ direction
            along_less[rows] = along[rows] - self._mean_products[self._cell[rows]] @ direction
        found = np.zeros(len(log))
        found[self._rounds] = along_less * rest
        # Means that move take the rewards and products of the regression, of which they were taken off, along.
        kept = (mass - self._sums(along_less)).reshape(positions, -1)
        found += self._pull_of_means(log, self._left, self._table, kept)
        moved = (self._mean_products @ direction).reshape(positions, -1)
        return found - self._pull_of_means(log, along, moved, self._sums(rest).reshape(positions, -1))

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[P * A]` sums of values `[n]`."""
        return np.bincount(self._cell, weights=values, minlength=len(self._mean_products)).astype(np.float64)

    def _pull_of_means(
        self, log: BanditLog, values: NDArray[np.float64], means: NDArray[np.float64], mass: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        return pull_of_means(log, self._rounds, values, means, self._shrinkage, mass)
