"""Policies that fill a slate from the top, each action once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import Choice
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import Block
from recsys.simulation.off_policy.scored_policy import Scored, Scores, chosen


class RankedPolicy:
    """Chooses for each position among the actions that do not stand above it in the logged slate.

    With `Softmax` this is the model of Plackett and Luce, with `TopKUniform(1)` the list by score itself.

    Args:
        scores: of the actions of a round.
        choice: makes probabilities of those that are left.
        log: whose slates are filled.

    Raises:
        LogError: the log has no slates.
    """

    def __init__(self, scores: Scores, choice: Choice, log: BanditLog) -> None:
        self.scores, self.choice = scores, choice
        place = places_of(log)
        above = np.full((len(log), place.shape[1]), -1, dtype=np.int64)
        for position in range(place.shape[1]):
            here, later = place[:, position], place[:, position + 1 :]
            rows = later[(later >= 0) & (here >= 0)[:, None]]
            slates = np.repeat(here, (later >= 0).sum(1) * (here >= 0))
            above[rows, position] = log.action[slates]
        self._above = torch.from_numpy(above)

    def width(self, log: BanditLog) -> int:
        return self.scores.width(log)

    def block(self, log: BanditLog, rounds: NDArray[np.int64]) -> Block:
        """Probabilities of rounds `[b]`, given what stands above.

        Raises:
            PolicyError: no action with a score is left.
        """
        found = self.scores(log, rounds)
        scores, above = found.scores.clone(), self._above[torch.from_numpy(rounds)]
        for position in range(above.shape[1]):
            taken = above[:, position : position + 1]
            if found.actions is None:
                gone = torch.where(taken >= 0, -torch.inf, scores.gather(1, taken.clamp(min=0)))
                scores.scatter_(1, taken.clamp(min=0), gone)
            else:
                scores.masked_fill_((found.actions == taken) & (taken >= 0), -torch.inf)
        return chosen(log, rounds, Scored(scores, found.actions), self.choice)


def places_of(log: BanditLog) -> NDArray[np.int64]:
    """`[S, P]` row of each slate at each position; -1 where it has none.

    Raises:
        LogError: there are no slates, two rows stand at one position of a slate, or its rows have different users.
    """
    if log.slate is None:
        raise LogError(f"{log.origin}: no slates; name the column that tells them apart by `LogColumns.slate`")
    place = np.full((int(log.slate.max()) + 1, len(log.positions)), -1, dtype=np.int64)
    place[log.slate, log.position] = np.arange(len(log))
    if (place >= 0).sum() < len(log):
        row = int((place[log.slate, log.position] != np.arange(len(log))).argmax())
        raise LogError(
            f"{log.origin}: row {row} and row {place[log.slate[row], log.position[row]]} stand at one position of one "
            "slate; number the positions of each slate"
        )
    first = place[np.arange(len(place)), (place >= 0).argmax(1)]
    if (bad := log.unit != log.unit[first[log.slate]]).any():
        raise LogError(f"{log.origin}: the slate of row {int(bad.argmax())} has several users; give each its own")
    return place
