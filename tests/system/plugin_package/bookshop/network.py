"""A network of our own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.models.decoder import pad
from recsys.models.embeddings import ItemEncoder
from recsys.models.network import SequenceNetwork


class MeanOfHistory(SequenceNetwork):
    """The query after an event is the mean of the item vectors up to it."""

    def __init__(self, catalogue: Catalogue, width: int = 64):
        super().__init__(catalogue)
        self.hyperparameters = {"width": width}
        self.items = ItemEncoder(catalogue, width)

    def encode_vectors(self, batch: SequenceBatch, vectors: Tensor) -> Tensor:
        padded, at = pad(vectors, batch.lengths.long())  # [B, L, width], and where the events stand in it
        number = torch.arange(1, padded.shape[1] + 1, device=vectors.device)
        means = padded.cumsum(1) / number[:, None]
        return self.match(means.flatten(0, 1)[at])

    def match(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)

    @classmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> "MeanOfHistory":
        return cls(catalogue, **hyperparameters)
