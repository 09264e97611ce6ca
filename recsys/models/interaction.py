"""The base of every network of user-item pairs: users and items known by id, one lookup a table a step."""

from __future__ import annotations

import abc
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.embedding_table import Table
from recsys.models.embeddings import ItemEncoder
from recsys.models.recommender import VectorRecommender
from recsys.models.trainable import TrainableNetwork, with_popularity
from recsys.models.user_encoder import UserEncoder

if TYPE_CHECKING:
    from recsys.features.splits import Split

EXAMPLE_STEPS = 60


class InteractionError(ValueError):
    """A network of pairs is made from a catalogue that does not say which users training knows."""


class InteractionVectors(NamedTuple):
    """What a network of pairs makes of n users and m items.

    Attributes:
        users: `[n, d]`, matched with `items` by inner product.
        items: `[m, d]`.
        user_norms: `[n]` squared norm of the embedding of each user, before anything was made of it.
        item_norms: `[m]` likewise of each item; what a regulariser adds up.
    """

    users: Tensor
    items: Tensor
    user_norms: Tensor
    item_norms: Tensor


class InteractionNetwork(TrainableNetwork, VectorRecommender):
    """A network that scores a user against an item, and reads no history.

    A user without training events is not known, and gets what is popular. A subclass writes `encode`, and may override
    `forward` where vectors of some need the embeddings of all.

    Args:
        catalogue: made with `interactions=True`, as the data module does for batches of pairs.
        width: of the embeddings.
        side_features: add side features of users and items to their ids.
        init_std: standard deviation of the initial embeddings.

    Raises:
        InteractionError: the catalogue does not say which users training knows.
    """

    reads_history: ClassVar[bool] = False
    reads_interactions: ClassVar[bool] = False
    """Whether it needs to know who had what when it serves, so that this is saved with it."""

    def __init__(self, catalogue: Catalogue, width: int, side_features: bool, init_std: float):
        if "user_id" not in catalogue.user_jagged or (self.reads_interactions and catalogue.interactions is None):
            raise InteractionError(
                f"{type(self).__name__} knows users by their ids, and the catalogue has none: set `data.batches`, or "
                "make it with `Catalogue.from_split(split, interactions=True)`"
            )
        interactions = catalogue.interactions if self.reads_interactions else None
        super().__init__(replace(catalogue, interactions=interactions, exposures=None))
        self.users = UserEncoder(_of_users(self.catalogue, side_features), width, init_std)
        self.items = ItemEncoder(self.catalogue, width, side_features, init_std=init_std)

    @abc.abstractmethod
    def encode(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Vectors to serve, of distinct ids.

        Args:
            users: `[n]` int64, at least one; None: none are wanted.
            items: `[m]` int64, at least one; None: none are wanted.

        Returns:
            `[n, d]` and `[m, d]`; None for what was not wanted.
        """

    @abc.abstractmethod
    def forward(self, users: Tensor, items: Tensor) -> InteractionVectors:
        """Vectors to train on; each table is looked up once, with distinct ids.

        Args:
            users: `[n]` int64, at least one.
            items: `[m]` int64, at least one, in no relation to `users`.
        """

    def knows(self, user_id: Tensor) -> Tensor:
        return self.users.knows(user_id)

    @torch.no_grad()
    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        distinct, place = torch.unique(batch.user_id, return_inverse=True)
        known = self.knows(distinct)
        if not known.any():  # nothing to look up, which TorchRec refuses
            width = self.item_vectors(batch.user_id.new_zeros(1)).shape[1]
            return F.pad(self.popularity.new_ones(len(batch), 1), (width - 1, 0))
        vectors, _ = self.encode(distinct, None)
        assert vectors is not None
        popular = (~known).float().unsqueeze(-1)
        return torch.cat([vectors.float() * known.unsqueeze(-1), popular], dim=1)[place]

    @torch.no_grad()
    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        def vectors(block: Tensor) -> Tensor:
            encoded = self.encode(None, block)[1]
            assert encoded is not None
            return encoded

        return with_popularity(vectors, self.popularity, ids)

    @classmethod
    def build(cls, catalogue: Catalogue, hyperparameters: dict[str, Any]) -> InteractionNetwork:
        return cls(catalogue, **hyperparameters)

    @classmethod
    def example(cls, split: Split) -> Self:
        """The default network after a few steps of full softmax over all pairs on the CPU; for small logs only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            catalogue = Catalogue.from_split(split, interactions=True)
            assert catalogue.interactions is not None
            target, offsets = catalogue.interactions
            users = torch.repeat_interleave(offsets.diff())
            network = cls(catalogue)  # type: ignore[call-arg]  # a subclass has defaults for the others
            optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
            for _ in range(EXAMPLE_STEPS):
                vectors = network(users, torch.arange(network.n_items + 1))
                loss = F.cross_entropy((vectors.users @ vectors.items.T)[:, 1:], target - 1)
                optimizer.zero_grad()
                loss.backward()
                for weight in network.parameters():
                    if weight.grad is not None and weight.grad.is_sparse:
                        weight.grad = weight.grad.to_dense()  # the log is small, and dense Adam is all it needs
                optimizer.step()
        return network.eval()


class SeparateSides(InteractionNetwork):
    """A network of pairs that makes the vector of a user from the user's embedding alone, and that of an item likewise.

    A subclass writes `user_side` and `item_side`.
    """

    @abc.abstractmethod
    def user_side(self, embeddings: Tensor) -> Tensor:
        """Vectors `[n, d]` of users from their embeddings `[n, width]`."""

    @abc.abstractmethod
    def item_side(self, embeddings: Tensor) -> Tensor:
        """Vectors `[m, d]` of items from their embeddings `[m, width]`."""

    def forward(self, users: Tensor, items: Tensor) -> InteractionVectors:
        (distinct_users, user_place), (distinct_items, item_place) = (
            torch.unique(ids, return_inverse=True) for ids in (users, items)
        )
        user, item = self.users(distinct_users), self.items(distinct_items)
        return InteractionVectors(
            self.user_side(user).index_select(0, user_place),  # several times as fast as brackets on a CPU
            self.item_side(item).index_select(0, item_place),
            user.square().sum(-1).index_select(0, user_place),
            item.square().sum(-1).index_select(0, item_place),
        )

    def encode(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (
            None if users is None else self.user_side(self.users(users)),
            None if items is None else self.item_side(self.items(items)),
        )


def _of_users(catalogue: Catalogue, side_features: bool) -> Catalogue:
    """The catalogue as a `UserEncoder` reads it: with a table of users, and their features where they are wanted."""
    schema = catalogue.schema
    changed: dict[str, Any] = {} if schema.user_table is not None else {"user_table": Table()}
    if side_features:
        return replace(catalogue, schema=schema.model_copy(update=changed))
    changed["features"] = tuple(feature for feature in schema.features if feature.entity != "user")
    ids = {"user_id": catalogue.user_jagged["user_id"]}
    alone = replace(catalogue, user_jagged=ids, user_numeric={}, user_vectors={})
    return replace(alone, schema=schema.model_copy(update=changed))
