"""Policies of anything that scores actions, a recommender above all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.evaluation.scoring import device_of, evaluation_mode
from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender
from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import Choice
from recsys.simulation.off_policy.policies import Block, PolicyError


class Scored(NamedTuple):
    """Scores of a few rounds.

    Attributes:
        scores: `[b, C]` float, `-inf` where there is no action.
        actions: `[b, C]` int64 codes, -1 for an action that the log does not know; None: column `a` is action `a`.
    """

    scores: Tensor
    actions: Tensor | None = None


class Scores(Protocol):
    """Scores the actions of rounds."""

    def width(self, log: BanditLog) -> int:
        """Columns that a round takes while it is scored."""

    def __call__(self, log: BanditLog, rounds: NDArray[np.int64]) -> Scored:
        """Scores of rounds `[b]`."""


class ScoredPolicy:
    """Chooses by scores.

    Args:
        scores: of the actions of a round.
        choice: makes probabilities of them.
    """

    def __init__(self, scores: Scores, choice: Choice) -> None:
        self.scores, self.choice = scores, choice

    def width(self, log: BanditLog) -> int:
        return self.scores.width(log)

    def block(self, log: BanditLog, rounds: NDArray[np.int64]) -> Block:
        """Probabilities of rounds `[b]`.

        Raises:
            PolicyError: a round has no action with a score.
        """
        found = self.scores(log, rounds)
        return chosen(log, rounds, found, self.choice)


def chosen(log: BanditLog, rounds: NDArray[np.int64], found: Scored, choice: Choice) -> Block:
    """Probabilities of rounds `[b]` by their scores.

    Raises:
        PolicyError: a round has no action with a score.
    """
    nothing = found.scores.amax(1) == -torch.inf
    if nothing.any():
        raise PolicyError(
            f"{log.origin}: the policy has no action with a score for row {rounds[int(nothing.int().argmax())]}; leave "
            "the row out, or let it choose among others"
        )
    made, actions = choice(found.scores), found.actions
    if made.column is not None:
        actions = made.column if actions is None else actions.gather(1, made.column)
    return Block(made.probability, actions)


class RecommenderScores:
    """The scores of a recommender, for the candidates of a round or for all actions.

    Args:
        model: the recommender.
        batches: makes the batch of rounds `[b]`: the histories that were known when they were asked, no later event.
        items: `[A]` int64, the dense item id of each action of the log; 0 for one that the model does not know, which
            it never recommends.
    """

    def __init__(
        self,
        model: Recommender,
        batches: Callable[[NDArray[np.int64]], SequenceBatch],
        items: NDArray[np.int64],
    ) -> None:
        self.model, self.batches = model, batches
        self.items = torch.from_numpy(np.ascontiguousarray(items, dtype=np.int64))

    def width(self, log: BanditLog) -> int:
        return max(log.width, 0 if log.candidates is not None else self.model.n_items + 1)

    @torch.no_grad()
    def __call__(self, log: BanditLog, rounds: NDArray[np.int64]) -> Scored:
        device = device_of(self.model)
        batch = self.batches(rounds).to(device)
        candidates = log.candidate_block(rounds)
        with evaluation_mode(self.model):
            if candidates is None:
                return Scored(self.model.scores(batch).cpu().index_select(1, self.items))
            actions = torch.from_numpy(candidates)
            items = torch.where(actions >= 0, self.items[actions.clamp(min=0)], 0)
            return Scored(self.model.candidate_scores(batch, items.to(device)).cpu(), actions)


class ListScores:
    """Scored lists that are known already, such as the answers of a served model.

    Args:
        actions: `[N, K]` int64 codes; -1 for an action that the log does not know.
        scores: `[N, K]` float; `-inf` where a list is shorter.
    """

    def __init__(self, actions: NDArray[np.int64], scores: NDArray[np.floating]) -> None:
        self.actions, self.scores = torch.from_numpy(actions), torch.from_numpy(scores)

    def width(self, log: BanditLog) -> int:
        return self.actions.shape[1]

    def __call__(self, log: BanditLog, rounds: NDArray[np.int64]) -> Scored:
        at = torch.from_numpy(rounds)
        return Scored(self.scores[at], self.actions[at])
