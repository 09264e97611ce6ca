"""Two towers over user-item pairs: perceptrons over what is known of a user and of an item."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.models.interaction import InteractionNetwork, InteractionVectors
from recsys.models.tower import Tower


class PairTowers(InteractionNetwork):
    """The score of a pair is the inner product of what two perceptrons make of the user and of the item.

    It reads no history: `TwoTower` does. As a network of pairs it is trained like `MatrixFactorization`, on the same
    batches, from ids and side features of both sides.

    Args:
        catalogue: sizes, ids and features; the training job supplies it.
        width: of the embeddings.
        hidden: widths of the hidden layers of each tower.
        dim: of the vectors that are compared.
        dropout: share of zeroed values behind each hidden layer.
        side_features: add side features of users and items to their ids.
        init_std: standard deviation of the initial embeddings.

    Source:
        Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        width: int = 64,
        hidden: Sequence[int] = (128,),
        dim: int = 64,
        dropout: float = 0.0,
        side_features: bool = True,
        init_std: float = 0.1,
    ):
        super().__init__(catalogue, width, side_features, init_std)
        self.hyperparameters = {
            "width": width,
            "hidden": list(hidden),
            "dim": dim,
            "dropout": dropout,
            "side_features": side_features,
            "init_std": init_std,
        }
        self.user_tower, self.item_tower = (Tower(width, hidden, dim, dropout) for _ in range(2))

    def forward(self, users: Tensor, items: Tensor) -> InteractionVectors:
        (distinct_users, user_place), (distinct_items, item_place) = (
            torch.unique(ids, return_inverse=True) for ids in (users, items)
        )
        user, item = self.users(distinct_users), self.items(distinct_items)
        return InteractionVectors(
            self.user_tower(user)[user_place],
            self.item_tower(item)[item_place],
            user.square().sum(-1)[user_place],
            item.square().sum(-1)[item_place],
        )

    def encode(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (
            None if users is None else self.user_tower(self.users(users)),
            None if items is None else self.item_tower(self.items(items)),
        )
