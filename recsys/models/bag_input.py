"""The input of bags that items and queries are pooled from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.catalogue import Catalogue, gather_jagged
from recsys.features.queries import Queries


class BagInput(nn.Module):
    """Gathers features of items and of queries for one lookup per table, though both may feed the same.

    Args:
        catalogue: holds the features of the items.
        items: names of item features that feed tables.
        queries: names of text features of queries.
    """

    def __init__(self, catalogue: Catalogue, items: Sequence[str], queries: Sequence[str]):
        super().__init__()
        self.items, self.queries = tuple(items), tuple(queries)
        for name in self.items:
            values, offsets = catalogue.jagged[name]
            self.register_buffer(f"{name}_values", values, persistent=False)
            self.register_buffer(f"{name}_offsets", offsets, persistent=False)

    def forward(self, ids: Tensor, queries: Queries | None) -> KeyedJaggedTensor:
        """One row per item and then one per query: a feature of the one is empty for the other.

        Args:
            ids: `[n]` int64 items, at least one.
            queries: Q queries; None: there are none.

        Returns:
            `n + Q + 1` rows of each feature; `n` without queries.
        """
        rows = 0 if queries is None else len(queries)
        values, lengths = [], []
        for name in self.items:
            picked, length = gather_jagged(getattr(self, f"{name}_values"), getattr(self, f"{name}_offsets"), ids)
            values.append(picked)
            lengths += [length, length.new_zeros(rows)]
        for name in self.queries:
            picked, offsets = (ids[:0], ids.new_zeros(1)) if queries is None else queries.jagged[name]
            values.append(picked)
            lengths += [torch.zeros_like(ids), offsets.diff()]
        return KeyedJaggedTensor(
            keys=[*self.items, *self.queries], values=torch.cat(values), lengths=torch.cat(lengths)
        )
