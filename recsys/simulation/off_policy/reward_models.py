"""What an action is expected to earn: models of the reward, each fitted to other users than it predicts for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import Block


class FittedRewards(Protocol):
    """Predicts rewards."""

    def predict(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        """Predictions for rounds `[b]` and the actions of a block, `[b, C]` of its dtype.

        An action that the log does not know, -1, gets any finite number.
        """

    def asked(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        """What `pull` must know of the sum of predictions for rounds `[b]`, weighed by a block `[b, C]`.

        Float64 of any one shape; that of two sums together is their sum.
        """

    def pull(self, log: BanditLog, asked: Tensor) -> NDArray[np.float64]:
        """How far each round that it was fitted to pulls a sum of predictions, to first order.

        That is the derivative of the sum by the weight of the round in the fit (infinitesimal jackknife). Zeros leave
        the luck of the fit out of intervals.

        Args:
            log: the log.
            asked: the sum, as `asked` tells.

        Returns:
            `[N]` float64, 0 for a round that it was not fitted to.
        """


class RewardModel(Protocol):
    """Learns the reward of an action."""

    def fit(self, log: BanditLog, rounds: NDArray[np.int64]) -> FittedRewards:
        """Learns from rounds `[n]` alone."""


class MeanByAction:
    """The mean reward of each action at each position, shrunk towards the mean of the position.

    `(sum of rewards + shrinkage * mean of the position) / (rounds + shrinkage)`.

    Args:
        shrinkage: rounds that the mean of the position counts for.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"action": [0, 0, 1, 1], "reward": [1, 1, 0, 0], "propensity": 0.5})
        >>> log = BanditLog.from_frame(table)
        >>> fitted = MeanByAction(shrinkage=2.0).fit(log, np.arange(4))
        >>> fitted.predict(log, np.arange(1), Block(torch.zeros(1, 2))).tolist()
        [[0.75, 0.25]]
    """

    def __init__(self, shrinkage: float = 20.0) -> None:
        self.shrinkage = shrinkage

    def fit(self, log: BanditLog, rounds: NDArray[np.int64]) -> MeansByAction:
        """Learns from rounds `[n]` alone."""
        means = shrunk_means(log, rounds, log.reward[rounds], self.shrinkage)
        return MeansByAction(means, rounds, self.shrinkage)


class MeansByAction:
    """A mean for each position and action.

    Args:
        means: `[P, A]` float64.
        rounds: `[n]` int64 that they were computed from.
        shrinkage: with which they were shrunk.
    """

    def __init__(self, means: NDArray[np.float64], rounds: NDArray[np.int64], shrinkage: float) -> None:
        double = torch.from_numpy(means)
        self._means = {torch.float64: double, torch.float32: double.float()}
        self._rounds, self._shrinkage = rounds, shrinkage

    def asked(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        """`[P, A]`, the weight of each action at each position."""
        mass = torch.zeros(len(log.positions), log.n_actions, dtype=torch.float64)
        position = torch.from_numpy(log.position[rounds])
        if block.actions is not None:
            known = block.actions >= 0
            cell = position[:, None] * log.n_actions + block.actions
            mass.view(-1).index_add_(0, cell[known], block.probability[known].double())
        elif len(mass) == 1:
            mass[0] = block.probability.sum(0)
        else:
            mass.index_add_(0, position, block.probability.double())
        return mass

    def pull(self, log: BanditLog, asked: Tensor) -> NDArray[np.float64]:
        values = log.reward[self._rounds]
        return pull_of_means(
            log, self._rounds, values, self._means[torch.float64].numpy(), self._shrinkage, asked.numpy()
        )

    def predict(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        means = self._means[block.probability.dtype]
        position = torch.from_numpy(log.position[rounds])
        if block.actions is not None:
            return means[position[:, None], block.actions.clamp(min=0)]
        return means.expand(len(rounds), -1) if len(means) == 1 else means[position]


def shrunk_means(
    log: BanditLog, rounds: NDArray[np.int64], values: NDArray[np.float64], shrinkage: float
) -> NDArray[np.float64]:
    """`[P, A]` means of values `[n]` by position and action, shrunk towards the mean of the position.

    A position without rounds has the mean of all.
    """
    positions, actions = len(log.positions), log.n_actions
    cell = log.position[rounds] * actions + log.action[rounds]
    counts = np.bincount(cell, minlength=positions * actions).reshape(positions, actions)
    sums = np.bincount(cell, weights=values, minlength=positions * actions).reshape(positions, actions)
    n = counts.sum(1, keepdims=True)
    of_position = np.where(n > 0, sums.sum(1, keepdims=True) / np.maximum(n, 1), values.mean())
    unseen = counts + shrinkage == 0
    shrunk = (sums + shrinkage * of_position) / np.where(unseen, 1, counts + shrinkage)
    return np.where(unseen, of_position, shrunk)


def pull_of_means(
    log: BanditLog,
    rounds: NDArray[np.int64],
    values: NDArray[np.float64],
    means: NDArray[np.float64],
    shrinkage: float,
    mass: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`[N]` derivatives of `sum(mass * means)` by the weight of each round in `shrunk_means` of values `[n]`."""
    position, action = log.position[rounds], log.action[rounds]
    n = np.maximum(np.bincount(position, minlength=len(mass)), 1)
    counted = np.bincount(position * mass.shape[1] + action, minlength=mass.size).reshape(mass.shape)
    of_cell = mass / np.maximum(counted + shrinkage, 1e-12)
    # The mean of a position, towards which all of its actions are shrunk, moves with every round there.
    of_position = shrinkage * of_cell.sum(1) / n
    mean = np.bincount(position, weights=values, minlength=len(mass)) / n
    found = np.zeros(len(log))
    found[rounds] = of_cell[position, action] * (values - means[position, action])
    found[rounds] += of_position[position] * (values - mean[position])
    return found


class CrossFitted:
    """Predicts for each round by a model that saw no round of its user.

    Args:
        models: one a fold.
        fold: `[N]` int64, the fold of each round.
    """

    def __init__(self, models: list[FittedRewards], fold: NDArray[np.int64]) -> None:
        self.models, self.fold = models, fold

    @classmethod
    def of(cls, model: RewardModel, log: BanditLog, folds: int = 5, seed: int = 0) -> CrossFitted:
        """Fits a model for each fold of users, to the users of the others (Chernozhukov et al., 2018).

        Args:
            model: to fit.
            log: the log.
            folds: number of folds.
            seed: of the draw of the folds.

        Raises:
            LogError: there are fewer users than folds.
        """
        fold = folds_of(log, folds, seed)
        return cls([model.fit(log, np.flatnonzero(fold != number)) for number in range(folds)], fold)

    def parts(self, rounds: NDArray[np.int64], block: Block) -> Iterator[tuple[int, NDArray[np.int64], Block]]:
        """The folds of rounds `[b]`: number, the rows of the block that belong to it, and that part of the block."""
        fold = self.fold[rounds]
        present = np.unique(fold)
        if len(present) == 1:
            yield int(present[0]), np.arange(len(rounds)), block
            return
        for number in present:
            here = np.flatnonzero(fold == number)
            at = torch.from_numpy(here)
            yield int(number), here, Block(block.probability[at], None if block.actions is None else block.actions[at])

    def predict(self, log: BanditLog, rounds: NDArray[np.int64], block: Block) -> Tensor:
        """Predictions `[b, C]`, of the dtype of the block, each by the model of the fold of its round."""
        made = {
            number: (at, self.models[number].predict(log, rounds[at], part))
            for number, at, part in self.parts(rounds, block)
        }
        if len(made) == 1:
            return next(iter(made.values()))[1]
        found = torch.empty_like(block.probability)
        for at, predicted in made.values():
            found[torch.from_numpy(at)] = predicted
        return found


def folds_of(log: BanditLog, folds: int, seed: int) -> NDArray[np.int64]:
    """`[N]` int64, the fold of each round; rounds of one user share it.

    Args:
        log: the log.
        folds: number of folds.
        seed: of the draw.

    Raises:
        LogError: there are fewer users than folds.
    """
    units = int(log.unit.max()) + 1
    if not 2 <= folds <= units:
        raise LogError(f"{log.origin}: {folds} folds of {units} users; two folds at least, and a user in each")
    fold_of_unit = np.arange(units) % folds
    np.random.default_rng(seed).shuffle(fold_of_unit)
    return np.asarray(fold_of_unit[log.unit])
