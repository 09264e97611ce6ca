"""How likely each position is to be examined, against the first one."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PositionPropensity(nn.Module):
    """A free logit for each position; the first is fixed at 0, for only differences can be learned from clicks.

    Args:
        positions: L, longest list.
        contexts: situations with curves of their own, such as devices; their logits are learned apart.

    Raises:
        ValueError: there is no position or no context.

    Example:
        >>> PositionPropensity(3).relative()
        tensor([[1., 1., 1.]])
    """

    def __init__(self, positions: int, contexts: int = 1):
        super().__init__()
        if positions < 1 or contexts < 1:
            raise ValueError(f"positions and contexts are at least 1, not {positions} and {contexts}")
        self.positions, self.contexts = positions, contexts
        self.free = nn.Parameter(torch.zeros(contexts, positions - 1))

    def forward(self, length: int, context: Tensor | None = None) -> Tensor:
        """Logits g of the first `length` positions.

        Args:
            length: of the lists.
            context: `[B]` int64; None where there is one context.

        Returns:
            `[B, length]`, or `[1, length]` with one context.

        Raises:
            ValueError: lists are longer than `positions`, or contexts are missing or unknown.
        """
        if length > self.positions:
            raise ValueError(f"lists of {length} positions, and propensities for {self.positions}: set `positions`")
        if context is None and self.contexts > 1:
            raise ValueError(f"propensities of {self.contexts} contexts need the context of each list")
        if context is not None and self.contexts > 1 and bool((context >= self.contexts).any()):
            most = int(context.max())
            raise ValueError(f"a list of context {most}, and propensities for {self.contexts} from 0: set `contexts`")
        logits = self._logits()[:, :length]
        return logits if self.contexts == 1 or context is None else logits[context]

    def _logits(self) -> Tensor:
        """`[contexts, positions]`."""
        return torch.cat([self.free.new_zeros(self.contexts, 1), self.free], dim=1)

    @torch.no_grad()
    def relative(self) -> Tensor:
        """`[contexts, positions]` chance of examination over that of the first position."""
        return self._logits().exp()

    @torch.no_grad()
    def set_relative(self, relative: Tensor) -> None:
        """Sets the logits to given propensities `[positions]` or `[contexts, positions]`; only their ratios count."""
        logs = relative.to(self.free).log().broadcast_to(self.contexts, self.positions)
        self.free.copy_(logs[:, 1:] - logs[:, :1])
