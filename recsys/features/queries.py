"""The queries that a batch mentions, as rows of tables and as vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Queries:
    """Q distinct queries; a batch refers to them by rows 1..Q, and row 0 stands for "no query".

    A query is known by its text alone, so that one that no log has seen is read like any other.

    Attributes:
        jagged: text feature of the schema -> (table rows int64 `[sum of lengths]`, offsets int64 `[Q + 2]`).
        vectors: sentence feature of the schema -> float32 `[Q + 1, dim]`, row 0 zero.
    """

    jagged: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Rows, row 0 included."""
        for _, offsets in self.jagged.values():
            return len(offsets) - 1
        for vectors in self.vectors.values():
            return len(vectors)
        return 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Queries:
        """The same queries on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Queries:
        """The same queries in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Queries:
        jagged = {name: (move(values), move(offsets)) for name, (values, offsets) in self.jagged.items()}
        return Queries(jagged, {name: move(values) for name, values in self.vectors.items()})
