"""The base of every trainable sequence model: one item lookup a step, and the `Recommender` interface for free."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.models.recommender import VectorRecommender

if TYPE_CHECKING:
    from recsys.features.splits import Split

ITEM_BLOCK = 65536
EXAMPLE_EPOCHS = 10


class SequenceNetwork(nn.Module, VectorRecommender):
    """A network that turns each event of a history into a query for the next item.

    A subclass sets `self.items` (ids -> item vectors) and `self.hyperparameters` (JSON-able constructor arguments),
    and writes `encode_vectors` and `match`. Training calls `forward`; serving calls the `Recommender` methods.

    Args:
        catalogue: sizes, side features and training counts of the data.
    """

    items: nn.Module
    popularity: Tensor
    hyperparameters: dict[str, Any]
    reads_users: ClassVar[bool] = True
    """Whether it may read features of users; False keeps them out of saved models."""

    def __init__(self, catalogue: Catalogue):
        super().__init__()
        self.catalogue = catalogue if self.reads_users else catalogue.without_users()
        self.n_items = catalogue.n_items
        self.max_length = catalogue.max_length
        # Users without history get the popular items: user vector (0, ..., 0, 1), item vector (v, popularity).
        self.register_buffer("popularity", torch.log1p(catalogue.counts.float()), persistent=False)

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

    def dense_part(self) -> nn.Module:
        """The part that takes dense tensors alone, and so can be compiled; the whole network if none is named."""
        return self

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
        if ids is None:
            ids = torch.arange(self.n_items + 1, device=self.popularity.device)
        vectors = torch.cat([self.match(self.items(block)) for block in ids.split(ITEM_BLOCK)]).float()
        return F.pad(vectors, (0, 1)).index_copy_(
            1, torch.tensor([vectors.shape[1]], device=ids.device), self.popularity[ids].unsqueeze(-1)
        )

    @classmethod
    @abc.abstractmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> SequenceNetwork:
        """Makes a network with fresh weights from what `hyperparameters` held."""

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

    def config(self) -> dict[str, Any]:
        return {"hyperparameters": self.hyperparameters, "catalogue": self.catalogue.config()}

    def state(self) -> dict[str, Tensor]:
        weights = {f"weights.{name}": value.detach() for name, value in self.state_dict().items()}
        return weights | {f"catalogue.{name}": value for name, value in self.catalogue.tensors().items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> SequenceNetwork:
        tensors = {name.removeprefix("catalogue."): v for name, v in state.items() if name.startswith("catalogue.")}
        network = cls.build(Catalogue.from_parts(config["catalogue"], tensors), config["hyperparameters"])
        network.load_state_dict({n.removeprefix("weights."): v for n, v in state.items() if n.startswith("weights.")})
        return network.eval()
