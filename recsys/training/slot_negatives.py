"""Which items stand beside the positive of a ranking slot while it is trained."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class SlotChoice(NamedTuple):
    """Negatives of P slots.

    Attributes:
        column: `[P, n]` int64, places in the pool.
        valid: `[P, n]` bool, false where a slot has fewer.
    """

    column: Tensor
    valid: Tensor


class SlotNegatives:
    """Takes the negatives of ranking slots from the pool that retrieval has drawn and scored in the same step.

    Random ones are any of the pool; hard ones are those that the model's own retrieval puts highest among the pool,
    with the weights of this very step: mining is never stale, costs no second lookup, and reaches as far up the list
    as the pool is large. Items that the user is known to want are never taken. A hard negative whose retrieval score
    comes close to the positive's is likely a positive that nobody has clicked yet, and is passed over.

    Args:
        n: negatives of a slot.
        hard: share of the hard ones; the others are random. Where filters leave too few, random ones take their place.
        tolerance: a hard negative scores at most this share of a positive score; below a negative one it stays by a
            tenth of the standard deviation of the pool's scores. Infinity switches the filter off.

    Raises:
        ValueError: `n` is not positive, or `hard` lies outside 0..1.

    Source:
        Hard negatives with a margin to the positive: LG-ANNA, arXiv 2506.07438, in spirit.
    """

    def __init__(self, n: int = 8, hard: float = 0.0, tolerance: float = 0.95):
        if n < 1 or not 0 <= hard <= 1:
            raise ValueError(f"n must be positive and hard lie in 0..1, not {n} and {hard}")
        self.n, self.hard, self.tolerance = n, hard, tolerance

    def setup(self, seed: int, device: torch.device | str = "cpu") -> None:
        """Makes the generator; called once before training."""
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def choose(self, scores: Tensor, positive: Tensor, wanted: Tensor, pool: Tensor) -> SlotChoice:
        """Negatives of P slots.

        Args:
            scores: `[P, N]` retrieval scores of the pool, without gradient.
            positive: `[P]` retrieval score of each positive.
            wanted: `[P, W]` int64, items that may not be a slot's negatives; 0 fills up.
            pool: `[N]` int64 item ids.
        """
        p, size = scores.shape
        n_hard = round(self.hard * self.n)
        # Twice as many as are needed, because some will be wanted items.
        shape = (p, 2 * self.n)
        column = torch.randint(size, shape, generator=self.generator, device=self.generator.device)
        allowed = torch.ones_like(column, dtype=torch.bool)
        if n_hard:
            near = scores > self._limit(scores, positive).unsqueeze(1)
            highest = scores.masked_fill(near, -torch.inf).topk(min(n_hard + wanted.shape[1], size), dim=1)
            column = torch.cat([highest.indices, column], dim=1)
            allowed = torch.cat([highest.values > -torch.inf, allowed], dim=1)
        allowed &= ~(pool[column].unsqueeze(-1) == wanted.unsqueeze(1)).any(-1)
        if n_hard:
            among_hard = allowed[:, : highest.indices.shape[1]]
            among_hard &= among_hard.cumsum(1) <= n_hard
        order = (~allowed).to(torch.int8).argsort(dim=1, stable=True)[:, : self.n]
        return SlotChoice(column.gather(1, order), allowed.gather(1, order))

    def _limit(self, scores: Tensor, positive: Tensor) -> Tensor:
        """`[P]` the highest score of a hard negative."""
        if self.tolerance == float("inf"):
            return torch.full_like(positive, torch.inf)
        return torch.where(positive > 0, self.tolerance * positive, positive - 0.1 * scores.std(1))

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the draws from `state_dict()`."""
        self.generator.set_state(state["generator"].cpu())
