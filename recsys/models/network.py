"""The base of every trainable sequence model: one item lookup a step, and the `Recommender` interface for free."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.models.recommender import VectorRecommender
from recsys.models.trainable import TrainableNetwork, with_popularity

if TYPE_CHECKING:
    from recsys.features.splits import Split

EXAMPLE_EPOCHS = 10


class SequenceNetwork(TrainableNetwork, VectorRecommender):
    """A network that turns each event of a history into a query for the next item.

    A subclass sets `self.items` (ids -> item vectors) and `self.hyperparameters` (JSON-able constructor arguments),
    and writes `encode_vectors` and `match`. Training calls `forward`; serving calls the `Recommender` methods.

    Args:
        catalogue: sizes, side features and training counts of the data.
    """

    items: nn.Module

    def __init__(self, catalogue: Catalogue):
        super().__init__(catalogue)
        self.max_length = catalogue.max_length

    @abc.abstractmethod
    def encode_vectors(self, batch: SequenceBatch, vectors: Tensor) -> Tensor:
        """Queries after each event.

        Args:
            batch: T events of B users.
            vectors: `[T, width]`, the item vectors of the events.

        Returns:
            `[T, d]`, matched with item vectors by inner product.
        """

    @abc.abstractmethod
    def match(self, vectors: Tensor) -> Tensor:
        """Item vectors as the output side compares them, `[n, width]` to `[n, d]`."""

    def forward(self, batch: SequenceBatch, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries after each event, and the vectors of candidates, from one lookup of the distinct ids of both.

        Args:
            batch: T events of B users.
            candidates: `[M]` int64 item ids; None for the whole catalogue, rows 0..n_items.

        Returns:
            `[T, d]` queries and `[M, d]` candidate vectors.
        """
        if candidates is None:
            vectors = self.items(torch.arange(self.n_items + 1, device=batch.timestamp.device))
            return self.encode_vectors(batch, vectors[batch.item_id]), self.match(vectors)
        distinct, place = torch.unique(torch.cat([batch.item_id, candidates]), return_inverse=True)
        vectors = self.items(distinct)
        events, wanted = place.split([batch.item_id.shape[0], candidates.shape[0]])
        return self.encode_vectors(batch, vectors[events]), self.match(vectors)[wanted]

    @torch.no_grad()
    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        known = batch.lengths > 0
        if not known.any():  # nothing to look up or to encode, which TorchRec and attention refuse
            width = self.item_vectors(batch.user_id.new_zeros(1)).shape[1]
            return F.pad(self.popularity.new_ones(len(batch), 1), (width - 1, 0))
        queries = self.encode_vectors(batch, self.items(batch.item_id)).float()
        last = queries[(batch.offsets[1:].long() - 1).clamp(min=0)]
        return torch.cat([last * known.unsqueeze(-1), (~known).float().unsqueeze(-1)], dim=1)

    @torch.no_grad()
    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return with_popularity(lambda block: self.match(self.items(block)), self.popularity, ids)

    @classmethod
    def example(cls, split: Split) -> Self:
        """The default network after a few epochs of full softmax on the CPU; for small logs only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = cls(Catalogue.from_split(split))
            optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
            batches = TrainingBatches(split, batch_size=128, max_length=50)
            for _ in range(EXAMPLE_EPOCHS):
                for batch in batches:
                    queries, items = network(batch, None)
                    assert batch.target is not None
                    loss = F.cross_entropy(10 * queries @ items.T, batch.target)
                    optimizer.zero_grad()
                    loss.backward()
                    for weight in network.parameters():
                        if weight.grad is not None and weight.grad.is_sparse:
                            weight.grad = weight.grad.to_dense()  # the log is small, and dense Adam is all it needs
                    optimizer.step()
        return network.eval()
