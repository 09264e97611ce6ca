"""Two towers over user-item pairs: perceptrons over what is known of a user and of an item."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.models.interaction import SeparateSides
from recsys.models.tower import Tower


class PairTowers(SeparateSides):
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

    def user_side(self, embeddings: Tensor) -> Tensor:
        vectors: Tensor = self.user_tower(embeddings)
        return vectors

    def item_side(self, embeddings: Tensor) -> Tensor:
        vectors: Tensor = self.item_tower(embeddings)
        return vectors
