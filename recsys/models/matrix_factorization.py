"""Matrix factorization by gradient steps: a vector for each user and each item."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.models.interaction import InteractionNetwork, InteractionVectors


class MatrixFactorization(InteractionNetwork):
    """The score of a pair is the inner product of the user's and the item's embedding, with biases where wanted.

    Args:
        catalogue: sizes and ids; the training job supplies it.
        width: of the embeddings.
        biases: add a learned number for each user and one for each item. They are the last column of the embeddings,
            so that they cost no lookup of their own.
        side_features: add side features of users and items to their ids.
        init_std: standard deviation of the initial embeddings, biases among them.

    Source:
        Koren, Bell, Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE Computer 2009.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        width: int = 64,
        biases: bool = False,
        side_features: bool = False,
        init_std: float = 0.1,
    ):
        super().__init__(catalogue, width + biases, side_features, init_std)
        self.biases = biases
        self.hyperparameters = {
            "width": width,
            "biases": biases,
            "side_features": side_features,
            "init_std": init_std,
        }

    def forward(self, users: Tensor, items: Tensor) -> InteractionVectors:
        (distinct_users, user_place), (distinct_items, item_place) = (
            torch.unique(ids, return_inverse=True) for ids in (users, items)
        )
        user, item = self.users(distinct_users), self.items(distinct_items)
        user_norms, item_norms = user.square().sum(-1), item.square().sum(-1)
        user_vectors, item_vectors = self._user_side(user), self._item_side(item)
        return InteractionVectors(
            user_vectors[user_place], item_vectors[item_place], user_norms[user_place], item_norms[item_place]
        )

    def encode(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (
            None if users is None else self._user_side(self.users(users)),
            None if items is None else self._item_side(self.items(items)),
        )

    def _user_side(self, vectors: Tensor) -> Tensor:
        """`(p, b)` to `(p, b, 1)`, whose product with `(q, 1, c)` is that of p and q, plus both biases."""
        return F.pad(vectors, (0, 1), value=1.0) if self.biases else vectors

    def _item_side(self, vectors: Tensor) -> Tensor:
        """`(q, c)` to `(q, 1, c)`."""
        if not self.biases:
            return vectors
        return torch.cat([vectors[:, :-1], torch.ones_like(vectors[:, -1:]), vectors[:, -1:]], dim=1)
