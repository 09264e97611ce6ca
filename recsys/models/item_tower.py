"""The item side of two towers: an encoder of features, and a perceptron over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recsys.models.embeddings import ItemEncoder
from recsys.models.tower import Tower

if TYPE_CHECKING:
    from recsys.features.masking import View


class ItemTower(nn.Module):
    """Vectors of items as they are compared with users.

    The encoder adds up a projection of each feature, which is the first linear map of a perceptron over their
    concatenation.

    Args:
        encoder: of ids and side features.
        tower: over what it gives.
    """

    def __init__(self, encoder: ItemEncoder, tower: Tower):
        super().__init__()
        self.encoder = encoder
        self.tower = tower

    @property
    def maskable(self) -> bool:
        """Whether the encoder has default vectors."""
        return self.encoder.maskable

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Those of the encoder."""
        return self.encoder.feature_names

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of the items `ids` `[n]` int64, at least one, `[n, dim]`."""
        out: Tensor = self.tower(self.encoder(ids))
        return out

    def views(self, ids: Tensor, views: Sequence[View], generator: torch.Generator | None = None) -> list[Tensor]:
        """Vectors of the same items with other features hidden, `[n, dim]` for each view; see `ItemEncoder.views`."""
        encoded = torch.cat(self.encoder.views(ids, views, generator))
        return list(self.tower(encoded).split(len(ids)))
