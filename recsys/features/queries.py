"""The queries that a batch mentions, as rows of tables and as vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.jagged import JaggedColumn


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

    def rows(self, which: NDArray[np.int64]) -> Queries:
        """The queries `which` `[n]`, of rows from 1, in this order; row 0 stays in front of them."""
        which = np.append(np.int64(0), which)
        jagged: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (values, offsets) in self.jagged.items():
            picked = JaggedColumn(values.numpy(), offsets.numpy()).gather(which)
            jagged[name] = torch.from_numpy(picked.values), torch.from_numpy(picked.offsets)
        return Queries(jagged, {name: vectors[torch.from_numpy(which)] for name, vectors in self.vectors.items()})

    def followed_by(self, other: Queries) -> Queries:
        """These queries and those of `other` after them: its row `i` has the number `len(self) - 1 + i` here."""
        jagged: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (values, offsets) in self.jagged.items():
            more, ends = other.jagged[name]
            jagged[name] = torch.cat([values, more]), torch.cat([offsets, offsets[-1] + ends[2:]])
        return Queries(jagged, {name: torch.cat([v, other.vectors[name][1:]]) for name, v in self.vectors.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Queries:
        """The same queries on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Queries:
        """The same queries in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> Queries:
        jagged = {name: (move(values), move(offsets)) for name, (values, offsets) in self.jagged.items()}
        return Queries(jagged, {name: move(values) for name, values in self.vectors.items()})
