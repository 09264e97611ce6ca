"""Slates of users who read from the top and stop at the first click: the value of a policy is known."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.scored_policy import Scored


@dataclass(frozen=True)
class PlantedSlates:
    """Slates of K of A actions, drawn one after the other by a softmax of scores.

    Attributes:
        liked: `[A]` chance that an action that is looked at is clicked.
        logging: `[A]` scores of the logging policy.
        target: `[A]` scores of the policy that is evaluated.
        positions: K.
    """

    liked: np.ndarray
    logging: np.ndarray
    target: np.ndarray
    positions: int = 3

    def conditional(self, scores: np.ndarray) -> np.ndarray:
        """`[slates, K]` chances of the actions of every possible slate, given those above."""
        slates = self.slates()
        odds = np.exp(scores)[slates]
        left = np.exp(scores).sum() - np.concatenate([np.zeros((len(slates), 1)), odds.cumsum(1)[:, :-1]], axis=1)
        return odds / left

    def slates(self) -> np.ndarray:
        """`[slates, K]`, every possible slate."""
        return np.array(list(itertools.permutations(range(len(self.liked)), self.positions)))

    @property
    def value(self) -> float:
        """Clicks a slate: one, unless nothing is liked."""
        passed = (1 - self.liked[self.slates()]).prod(1)
        return float((self.conditional(self.target).prod(1) * (1 - passed)).sum())

    def draw(self, n: int, seed: int) -> BanditLog:
        random = np.random.default_rng(seed)
        chances = self.conditional(self.logging)
        chosen = random.choice(len(chances), n, p=chances.prod(1) / math.fsum(chances.prod(1)))
        action = self.slates()[chosen]
        liked = random.random(action.shape) < self.liked[action]
        table = {
            "slate_id": np.repeat(np.arange(n), self.positions),
            "position": np.tile(np.arange(self.positions), n),
            "action": action.reshape(-1),
            "reward": (liked & (liked.cumsum(1) == 1)).reshape(-1).astype(float),
            "propensity": chances[chosen].reshape(-1),
        }
        return BanditLog.from_frame(pd.DataFrame(table), actions=range(len(self.liked)))


class FixedScores:
    """The same scores `[A]` in every round."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = torch.from_numpy(scores)

    def width(self, log: BanditLog) -> int:
        return len(self.scores)

    def __call__(self, log: BanditLog, rounds: np.ndarray) -> Scored:
        return Scored(self.scores.expand(len(rounds), -1))
