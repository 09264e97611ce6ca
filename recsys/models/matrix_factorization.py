"""Matrix factorization by gradient steps: a vector for each user and each item."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.models.interaction import SeparateSides


class MatrixFactorization(SeparateSides):
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

    def user_side(self, embeddings: Tensor) -> Tensor:
        """`(p, b)` to `(p, b, 1)`, whose product with `(q, 1, c)` is that of p and q, plus both biases."""
        return F.pad(embeddings, (0, 1), value=1.0) if self.biases else embeddings

    def item_side(self, embeddings: Tensor) -> Tensor:
        """`(q, c)` to `(q, 1, c)`."""
        if not self.biases:
            return embeddings
        return torch.cat([embeddings[:, :-1], torch.ones_like(embeddings[:, -1:]), embeddings[:, -1:]], dim=1)
