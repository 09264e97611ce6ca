"""From the state of a ranking slot to a logit for each action."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RankingHead(nn.Module):
    """A two-layer network, plus the retrieval score times a learned weight.

    The weight of the retrieval score starts at zero and lets the head correct retrieval, not learn it again. Logits
    start near zero, a probability of one half.

    Args:
        width: model width.
        actions: number of actions A, at least 1.
        scale: multiplies the retrieval scores, so that a weight of 1 makes logits of them.
    """

    def __init__(self, width: int, actions: int, scale: float):
        super().__init__()
        self.scale = scale
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, actions)
        self.retrieval_weight = nn.Parameter(torch.zeros(actions))
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: Tensor, retrieval: Tensor) -> Tensor:
        """Logits of every action.

        Args:
            states: `[..., width]`.
            retrieval: `[...]` retrieval scores of the candidates, which receive no gradient.

        Returns:
            `[..., A]`.
        """
        out: Tensor = self.out(F.silu(self.hidden(states)))
        return out + self.scale * retrieval.detach().unsqueeze(-1) * self.retrieval_weight


def candidate_score(logits: Tensor, values: Tensor) -> Tensor:
    """One score from the logits of all actions: the log of the sum of their odds, each times the action's value.

    Args:
        logits: `[..., A]`.
        values: `[A]` positive; with one action of value 1 the score is its logit.

    Returns:
        `[...]`.
    """
    return torch.logsumexp(logits + values.log(), dim=-1)
