"""How much of their side features two items share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.catalogue import Catalogue, gather_jagged


class FeatureOverlap:
    """Jaccard similarity of the values of two items: those they share over those that either has.

    Categories, lists and texts count, and a value of one feature is none of another; ids, numbers and vectors do not.

    Args:
        catalogue: of the items.
        device: where items are compared.

    Raises:
        ValueError: items have no features with values.

    Example:
        >>> from recsys.features.schema import Schema
        >>> tags = {"name": "tags", "column": "tags", "type": "categorical_list"}
        >>> lists = {"tags": (torch.tensor([1, 2, 2, 3, 4]), torch.tensor([0, 0, 2, 5]))}
        >>> shop = Catalogue(Schema.parse({"name": "shop", "features": [tags]}), 2, 1, {}, torch.zeros(3), jagged=lists)
        >>> FeatureOverlap(shop)(torch.tensor([1, 2]))
        tensor([[1.0000, 0.2500],
                [0.2500, 1.0000]])
    """

    def __init__(self, catalogue: Catalogue, device: torch.device | str = "cpu") -> None:
        if not catalogue.jagged:
            raise ValueError(
                f"items of schema `{catalogue.schema.name}` have no categories, lists or texts by which they could be "
                "alike: leave `eliminate_overlap` out"
            )
        items, keys, used = [], [], 0
        for values, offsets in catalogue.jagged.values():
            items.append(torch.repeat_interleave(offsets.diff()))
            keys.append(values + used)
            used += int(values.max()) + 1 if len(values) else 0
        # Sorted by item, and each value of an item once.
        pairs = (torch.cat(items) * used + torch.cat(keys)).unique()
        lengths = torch.bincount(pairs // max(used, 1), minlength=catalogue.n_items + 1)
        self._values = (pairs % max(used, 1)).to(device)
        self._offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device)

    def __call__(self, ids: Tensor) -> Tensor:
        """`[n, n]` float32 of the items `[n]` int64; 0 where neither of two has a value."""
        values, lengths = gather_jagged(self._values, self._offsets, ids)
        _, column, holders = values.unique(return_inverse=True, return_counts=True)
        common = holders[column] > 1  # a value that one item has tells pairs nothing, and most are such
        row = torch.repeat_interleave(lengths)[common]
        present, column = column[common].unique(return_inverse=True)
        held = torch.zeros(max(len(present), 1), len(ids), device=ids.device)
        held[column, row] = 1.0
        kept = torch.bincount(row, minlength=len(ids))
        shared = F.embedding_bag(column, held, kept.cumsum(0) - kept, mode="sum")  # adds up who holds each value
        shared.diagonal().copy_(lengths)
        return shared / (lengths[:, None] + lengths - shared).clamp(min=1)
