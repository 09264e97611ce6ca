"""Samplers of negative items; each knows how often it draws an item."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Negatives(NamedTuple):
    """Items drawn for the T rows of a batch.

    Attributes:
        ids: `[N]` int64 shared by all rows, or `[T, N]`; never 0.
        log_q: log of the expected count of each negative among a row's negatives: `[1]`, `[N]` or `[T, N]` float32.
            None: the loss is not to be corrected.
        log_q_positive: `[T]` float32, the same of each row's target, when the sampler corrects it too.
    """

    ids: Tensor
    log_q: Tensor | None = None
    log_q_positive: Tensor | None = None

    def hits(self, target: Tensor) -> Tensor | None:
        """`[2, H]` int64 (row, column) of the negatives that are the row's target `[T]`; None if there are none.

        Shared negatives are searched in sorted order: no `[T, N]` comparison is made.

        Example:
            >>> Negatives(torch.tensor([5, 3, 5])).hits(torch.tensor([3, 4, 5]))
            tensor([[0, 2, 2],
                    [1, 0, 2]])
        """
        if self.ids.dim() == 2:
            hits = (self.ids == target[:, None]).nonzero().T
            return hits if hits.shape[1] else None
        values, order = self.ids.sort(stable=True)
        first = torch.searchsorted(values, target)
        found = torch.searchsorted(values, target, right=True) - first
        rows = torch.repeat_interleave(torch.arange(target.shape[0], device=target.device), found)
        if rows.shape[0] == 0:
            return None
        within = torch.arange(rows.shape[0], device=target.device) - (found.cumsum(0) - found)[rows]
        return torch.stack((rows, order[first[rows] + within]))


class NegativeSampler(abc.ABC):
    """Draws negatives from its own generator, whose state belongs in the checkpoint.

    Args:
        corrected: give `log_q`, so that a sampled softmax estimates the softmax over the whole catalogue.
    """

    def __init__(self, corrected: bool) -> None:
        self.corrected = corrected
        self.n_items = 0
        self.generator = torch.Generator()

    def setup(
        self, n_items: int, counts: Tensor | None = None, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        """Fits the sampler to a catalogue; must be called before `sample`.

        Args:
            n_items: items are 1..n_items.
            counts: `[n_items + 1]` how often each item is a target in the training data (row 0 is ignored).
            seed: of the sampler's own generator.
            device: where negatives are drawn.
        """
        if n_items < 1:
            raise ValueError(f"a sampler needs at least one item, not {n_items}")
        self.n_items = n_items
        self.generator = torch.Generator(device).manual_seed(seed)

    @abc.abstractmethod
    def draw(self, target: Tensor) -> Tensor:
        """Ids `[N]` or `[T, N]` for the targets `[T]`."""

    @abc.abstractmethod
    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        """Expected count of each of `ids` among the negatives of one row, in a batch of `rows` rows; shape of `ids`.

        Over all items it sums to the number of negatives that a row has.
        """

    def sample(self, target: Tensor) -> Negatives:
        """Draws negatives for a batch.

        Args:
            target: `[T]` int64, the positive item of each row.
        """
        if self.n_items == 0:
            raise RuntimeError(f"{type(self).__name__}.setup(n_items, counts, seed) must be called before sampling")
        ids = self.draw(target)
        return Negatives(ids, self.expected_count(ids, target.shape[0]).log() if self.corrected else None)

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues the draws from `state_dict()`."""
        self.generator.set_state(state["generator"].cpu())


class Uniform(NegativeSampler):
    """Every item is as likely as any other.

    Args:
        n: negatives per row.
        per_position: draw `n` for every row instead of `n` that the whole batch shares (slower by far).
        corrected: give `log_q`. By default it is not: the correction is one constant, and without it the loss is the
            usual sampled softmax.

    Example:
        >>> sampler = Uniform(4)
        >>> sampler.setup(n_items=10, seed=1)
        >>> sampler.sample(torch.tensor([1, 2, 3])).ids.shape
        torch.Size([4])
    """

    def __init__(self, n: int = 256, per_position: bool = False, corrected: bool = False) -> None:
        super().__init__(corrected)
        self.n = n
        self.per_position = per_position

    def draw(self, target: Tensor) -> Tensor:
        shape = (target.shape[0], self.n) if self.per_position else (self.n,)
        return torch.randint(1, self.n_items + 1, shape, generator=self.generator, device=self.generator.device)

    def expected_count(self, ids: Tensor, rows: int) -> Tensor:
        return torch.full((1,) * ids.dim(), self.n / self.n_items, device=ids.device)
