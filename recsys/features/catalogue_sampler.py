"""Batches of items drawn uniformly from the catalogue, no item twice in one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CatalogueSampler:
    """Walks through a shuffled catalogue, and shuffles it again when fewer than n items are left.

    Every batch is a uniform sample without replacement, and in one pass no item comes twice. What is left at the end of
    a pass is not used in it: which items these are is as random as the order.

    It keeps an int32 for each item. A step takes time for n items, the first one of a pass for all of them.

    Args:
        n: items of a batch; a catalogue of fewer gives all of its items.

    Raises:
        ValueError: n is not positive.

    Example:
        >>> sampler = CatalogueSampler(2)
        >>> sampler.setup(n_items=4)
        >>> sorted(torch.cat([sampler.draw(), sampler.draw()]).tolist())
        [1, 2, 3, 4]
    """

    def __init__(self, n: int = 1024) -> None:
        if n < 1:
            raise ValueError(f"n must be positive, not {n}")
        self.n = n
        self.generator = torch.Generator()
        self._order = torch.empty(0, dtype=torch.int32)
        self._before_pass = self.generator.get_state()
        self._next = 0

    def setup(self, n_items: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        """Starts the first pass; must be called before `draw`.

        Args:
            n_items: items are 1..n_items.
            seed: of the sampler's own generator.
            device: where items are drawn.

        Raises:
            ValueError: there is no item.
        """
        if n_items < 1:
            raise ValueError(f"a sampler needs at least one item, not {n_items}")
        self.generator = torch.Generator(device).manual_seed(seed)
        self._shuffle(n_items)

    def draw(self) -> Tensor:
        """The next batch: `[min(n, n_items)]` int64 distinct items."""
        n_items = len(self._order)
        if n_items == 0:
            raise RuntimeError("CatalogueSampler.setup(n_items, seed) must be called before drawing")
        n = min(self.n, n_items)
        if self._next + n > n_items:
            self._shuffle(n_items)
        batch = self._order[self._next : self._next + n].long() + 1
        self._next += n
        return batch

    def state_dict(self) -> dict[str, Any]:
        """State of the generator before the order of this pass was drawn, and how many items of it were used."""
        return {"generator": self._before_pass, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the draws from `state_dict()`, after a `setup` with the same items."""
        self.generator.set_state(state["generator"].cpu())
        self._shuffle(len(self._order))
        self._next = state["next"]

    def _shuffle(self, n_items: int) -> None:
        self._before_pass = self.generator.get_state()
        self._order = torch.randperm(n_items, generator=self.generator, dtype=torch.int32, device=self.generator.device)
        self._next = 0
