"""From the state of a ranking slot to a logit for each action."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_WEIGHT = 0.02
"""Of the retrieval score: above zero, so that it decides before anything is learned."""


class RankingHead(nn.Module):
    """A two-layer network, plus the retrieval score times a learned weight.

    The network starts at zero and the weight small: candidates begin in the order of retrieval, at logits near zero,
    and the head learns where that order is wrong instead of learning it again.

    Args:
        width: model width.
        actions: number of actions A, at least 1.
        scale: multiplies the retrieval scores, so that steps of the weight are of the size of logits.
    """

    def __init__(self, width: int, actions: int, scale: float):
        super().__init__()
        self.scale = scale
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, actions)
        self.retrieval_weight = nn.Parameter(torch.full((actions,), INITIAL_WEIGHT))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states: Tensor, retrieval: Tensor) -> Tensor:
        """Logits of every action.

        Args:
            states: `[..., width]`.
            retrieval: `[...]` retrieval scores of the candidates.

        Returns:
            `[..., A]`.
        """
        out: Tensor = self.out(F.silu(self.hidden(states)))
        return out + self.scale * retrieval.unsqueeze(-1) * self.retrieval_weight


def candidate_score(logits: Tensor, values: Tensor) -> Tensor:
    """One score from the logits of all actions: the log of the sum of their odds, each times the action's value.

    Args:
        logits: `[..., A]`.
        values: `[A]` positive; with one action of value 1 the score is its logit.

    Returns:
        `[...]`.
    """
    return torch.logsumexp(logits + values.log(), dim=-1)


def values_of(actions: tuple[str, ...], given: dict[str, float]) -> Tensor:
    """`[A]` value of each action; `[1]` for a log without actions."""
    if unknown := set(given) - set(actions):
        raise ValueError(f"action_values: the log has no action {sorted(unknown)}; it has {list(actions)}")
    if bad := [name for name, value in given.items() if not value > 0]:
        raise ValueError(f"action_values: the values of {bad} must be above 0")
    return torch.tensor([float(given.get(name, 1.0)) for name in actions] or [1.0])
