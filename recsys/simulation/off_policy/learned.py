"""How what a reward model learned from each round reaches an estimate, so that intervals know of it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.policies import Block
from recsys.simulation.off_policy.reward_models import CrossFitted


class Learned:
    """Which predictions of cross-fitted models a policy asks for, and what the models learned from each round.

    Args:
        log: the log.
        rewards: the models.
    """

    def __init__(self, log: BanditLog, rewards: CrossFitted) -> None:
        self._log, self._rewards = log, rewards
        self._asked: dict[int, Tensor] = {}

    def add(self, rounds: NDArray[np.int64], block: Block) -> None:
        """Counts the predictions that the policy's probabilities of a block ask for."""
        for number, at, part in self._rewards.parts(rounds, block):
            asked = self._rewards.models[number].asked(self._log, rounds[at], part)
            self._asked[number] = self._asked[number] + asked if number in self._asked else asked

    def pull(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """`[N]` pulls with mean 0 of `mean(expected - weights * predicted)`, with weights `[N]`."""
        pull = np.zeros(len(self._log))
        for number, asked in self._asked.items():
            rows = np.flatnonzero(self._rewards.fold == number)
            action = torch.from_numpy(self._log.action[rows])
            taken = Block(torch.from_numpy(-weights[rows, None]), action[:, None])
            model = self._rewards.models[number]
            pull += model.pull(self._log, asked + model.asked(self._log, rows, taken))
        return pull - pull.mean()
