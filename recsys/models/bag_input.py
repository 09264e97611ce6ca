"""The input of bags that items and queries are pooled from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.catalogue import Catalogue, gather_jagged
from recsys.features.queries import Queries
from recsys.models.compositional import Composition
from recsys.models.feature_mask import FeatureMask


class BagInput(nn.Module):
    """Gathers features of items and of queries for one lookup per table, though both may feed the same.

    Args:
        catalogue: holds the features of the items.
        items: names of item features that feed tables.
        queries: names of text features of queries.
        held: how the table of each feature is held.
    """

    def __init__(
        self, catalogue: Catalogue, items: Sequence[str], queries: Sequence[str], held: Mapping[str, Composition]
    ):
        super().__init__()
        self.items, self.queries = tuple(items), tuple(queries)
        self.held = {name: held[name] for name in self.items + self.queries}
        for name in self.items:
            values, offsets = catalogue.jagged[name]
            self.register_buffer(f"{name}_values", values, persistent=False)
            self.register_buffer(f"{name}_offsets", offsets, persistent=False)

    def forward(self, ids: Tensor, queries: Queries | None, mask: FeatureMask | None = None) -> KeyedJaggedTensor:
        """One row per item and then one per query: a feature of the one is empty for the other.

        Args:
            ids: `[n]` int64 items, at least one.
            queries: Q queries; None: there are none.
            mask: what is shown of the items in each of V views, all of which have rows; None: everything, once.

        Returns:
            `V * n + Q + 1` rows of each feature and part of its table; `V * n` without queries.
        """
        rows = 0 if queries is None else len(queries)
        of_items = len(ids) * (1 if mask is None else mask.views)
        values, lengths = [], []
        for name in self.items:
            picked, length = gather_jagged(getattr(self, f"{name}_values"), getattr(self, f"{name}_offsets"), ids)
            if mask is not None:
                picked, length = mask.values(name, picked, length)
            for part in self.held[name].partition.places(picked):
                values.append(part)
                lengths += [length, length.new_zeros(rows)]
        for name in self.queries:
            picked, offsets = (ids[:0], ids.new_zeros(1)) if queries is None else queries.jagged[name]
            for part in self.held[name].partition.places(picked):
                values.append(part)
                lengths += [ids.new_zeros(of_items), offsets.diff()]
        keys = [key for name, held in self.held.items() for key in held.names(name)]
        return KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))

    def pooled(self, name: str, parts: Mapping[str, Tensor]) -> Tensor:
        """The vectors of a feature, `[V * n + Q + 1, dim]`, from those of the parts of its table by key."""
        held = self.held[name]
        return held.combined([parts[key] for key in held.names(name)])
