"""How what a reward model learned from each round reaches an estimate, so that intervals know of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.policies import Block
from recsys.simulation.off_policy.reward_models import CrossFitted


class Learned:
    """What cross-fitted models learned from each round, as it reaches an estimate.

    Args:
        log: the log.
        rewards: the models.
    """

    def __init__(self, log: BanditLog, rewards: CrossFitted) -> None:
        self._log, self._rewards = log, rewards
        self._mass = torch.zeros(len(rewards.models) * len(log.positions), log.n_actions, dtype=torch.float64)

    def add(self, rounds: NDArray[np.int64], block: Block) -> None:
        """Counts the predictions that the policy's probabilities of a block ask for."""
        row = torch.from_numpy(self._rewards.fold[rounds] * len(self._log.positions) + self._log.position[rounds])
        if block.actions is None:
            if len(row) and bool((row == row[0]).all()):
                self._mass[row[0]] += block.probability.sum(0)
            else:
                self._mass.index_add_(0, row, block.probability.double())
            return
        known = block.actions >= 0
        cell = row[:, None] * self._log.n_actions + block.actions
        self._mass.view(-1).index_add_(0, cell[known], block.probability[known].double())

    def pull(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[N]` pulls with mean 0 of `mean(expected - weights * predicted)`, with weights `[N]`."""
        log, folds = self._log, len(self._rewards.models)
        positions, actions = len(log.positions), log.n_actions
        cell = (self._rewards.fold * positions + log.position) * actions + log.action
        taken = np.bincount(cell, weights=weights, minlength=folds * positions * actions)
        mass = self._mass.numpy().reshape(folds, positions, actions) - taken.reshape(folds, positions, actions)
        pull = np.zeros(len(log))
        for model, of_fold in zip(self._rewards.models, mass, strict=True):
            pull += model.pull(log, of_fold)
        return pull - pull.mean()
