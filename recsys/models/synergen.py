"""SynerGen-style decoder: one causal Transformer over a user's events, whose states retrieve from the catalogue."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.models.decoder import Decoder, pad
from recsys.models.embeddings import ItemEncoder
from recsys.models.network import SequenceNetwork
from recsys.models.rotary import Rotary, SplitByDim, rotary_config, rotary_from_config

Similarity = Literal["cosine", "dot"]


class SynerGen(SequenceNetwork):
    """Decoder over context tokens; the state of an event is matched with the vectors of all items.

    Inputs and outputs share the item vectors. With `cosine` similarity both sides are brought to length one, on the
    output side only. Source: SynerGen, arXiv 2509.21777 (the query-free retrieval task).

    Args:
        catalogue: sizes, side features and training counts; the training job supplies it.
        width: model width.
        layers: decoder blocks.
        heads: attention heads.
        hidden_ratio: width of the feed-forward layer over the model width.
        dropout: share of zeroed values at the input and in each residual branch.
        rotary: where position and time enter.
        similarity: inner product of unit vectors (`cosine`) or of plain ones (`dot`).
        side_features: False uses ids alone.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        width: int = 128,
        layers: int = 2,
        heads: int = 2,
        hidden_ratio: float = 8 / 3,
        dropout: float = 0.2,
        rotary: Rotary = SplitByDim(),  # noqa: B008 (frozen)
        similarity: Similarity = "cosine",
        side_features: bool = True,
    ):
        super().__init__(catalogue)
        self.hyperparameters = {
            "width": width,
            "layers": layers,
            "heads": heads,
            "hidden_ratio": hidden_ratio,
            "dropout": dropout,
            "rotary": rotary_config(rotary),
            "similarity": similarity,
            "side_features": side_features,
        }
        self.heads, self.head_dim = heads, width // heads
        self.rotary = rotary
        self.similarity = similarity
        self.items = ItemEncoder(catalogue, width, side_features)
        self.decoder = Decoder(width, layers, heads, hidden_ratio, dropout)

    def encode_vectors(self, batch: SequenceBatch, vectors: Tensor) -> Tensor:
        lengths = batch.lengths.long()
        x, at = pad(vectors, lengths)
        times, _ = pad(batch.timestamp, lengths)
        newest = times.gather(1, (lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
        index = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        multiplier = self.rotary.multiplier(index, times, newest, self.heads, self.head_dim)
        states = self.decoder(x, multiplier).flatten(0, 1)[at]
        return self.match(states)

    def dense_part(self) -> nn.Module:
        return self.decoder

    def match(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.similarity == "cosine" else vectors

    @classmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> SynerGen:
        rotary = rotary_from_config(hyperparameters["rotary"])
        return cls(catalogue, **{**hyperparameters, "rotary": rotary})
