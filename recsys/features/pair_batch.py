"""A batch of user-item pairs, or of a user with an item and another one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class InteractionBatch:
    """B rows, each about one user and the item in question.

    Attributes:
        users: `[B]` int64 user ids.
        items: `[B]` int64 item ids.
    """

    users: Tensor
    items: Tensor

    def __len__(self) -> int:
        return self.users.shape[0]

    @property
    def item_id(self) -> Tensor:
        """`[B]` int64, the items, under the name that batches of sequences have for them."""
        return self.items

    @property
    def lengths(self) -> Tensor:
        """`[B]` int64, items of each row as those who count work ask for them: one."""
        return torch.ones_like(self.users)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        return replace(self, **{n: value.to(device, non_blocking=non_blocking) for n, value in self._tensors().items()})

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory (the data loader calls it)."""
        return replace(self, **{name: value.pin_memory() for name, value in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class PairBatch(InteractionBatch):
    """Pairs, each positive or unlabeled.

    Attributes:
        label: `[B]` float32, 1 where the user had the item in training, 0 where not, or where nothing is known of it.
        weight: `[B]` float32 above 0, how many pairs of its kind each stands for. None: each for itself.
        propensity: `[B]` float32 in (0, 1], as logged with the positives, and with the other pairs whose outcome is
            known; 1 for all others, of which nothing is logged. None: the log has none.
        observed: `[B]` float32, 1 where the outcome is known: the positives, and pairs that were exposed and not
            relevant. None: only positives are known.

    Example:
        >>> batch = PairBatch(torch.tensor([1, 2]), torch.tensor([3, 4]), label=torch.tensor([1.0, 0.0]))
        >>> len(batch), batch.weight
        (2, None)
    """

    label: Tensor
    weight: Tensor | None = None
    propensity: Tensor | None = None
    observed: Tensor | None = None


@dataclass(frozen=True)
class TripleBatch(InteractionBatch):
    """Positive pairs, each with another item to compare with.

    Attributes:
        others: `[B]` int64, never the item itself.
        other_label: `[B]` float32, 1 where the user had the other item too.
        propensity: `[B]` float32 in (0, 1], as logged with the positives. None: the log has none.
    """

    others: Tensor
    other_label: Tensor
    propensity: Tensor | None = None
