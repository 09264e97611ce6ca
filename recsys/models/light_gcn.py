"""LightGCN: embeddings of users and items, smoothed over the graph of who had what."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.features.catalogue import Catalogue, Jagged
from recsys.models.interaction import InteractionNetwork, InteractionVectors


class LightGCN(InteractionNetwork):
    """The vectors of users and items are means over layers: an embedding, and what the graph makes of it.

    A layer is the one before times the adjacency matrix, divided by the roots of the degrees of both ends; there are no
    other weights. The graph has an edge for each distinct training pair, and is saved with the model: a reader of the
    folder can tell who had what.

    A step propagates over the whole graph, in time and memory of (pairs + users + items) * width * layers, whatever
    the batch. Vectors that serve are propagated once, and again when the weights have changed.

    Args:
        catalogue: with the training pairs; the training job supplies it.
        width: of the embeddings.
        layers: of propagation; 0 is matrix factorization.
        side_features: add side features of users and items to their ids.
        init_std: standard deviation of the initial embeddings.

    Raises:
        ValueError: `layers` is negative, or the catalogue has no training pairs.

    Source:
        He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", SIGIR 2020.
    """

    reads_interactions: ClassVar[bool] = True
    adjacency: Tensor

    def __init__(
        self,
        catalogue: Catalogue,
        width: int = 64,
        layers: int = 3,
        side_features: bool = False,
        init_std: float = 0.1,
    ):
        if layers < 0:
            raise ValueError(f"layers must be at least 0, not {layers}")
        super().__init__(catalogue, width, side_features, init_std)
        self.layers = layers
        self.n_users = catalogue.n_users
        self.hyperparameters = {
            "width": width,
            "layers": layers,
            "side_features": side_features,
            "init_std": init_std,
        }
        assert catalogue.interactions is not None
        matrix = normalized_adjacency(catalogue.interactions, catalogue.n_items)
        self.register_buffer("adjacency", matrix, persistent=False)
        self._served: tuple[tuple[int, ...], Tensor] | None = None

    def forward(self, users: Tensor, items: Tensor) -> InteractionVectors:
        embeddings = self._embeddings()
        vectors, norms, items = self._smoothed(embeddings), embeddings.square().sum(-1), items + self.n_users + 1
        return InteractionVectors(vectors[users], vectors[items], norms[users], norms[items])

    def encode(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        state = tuple(weight._version for weight in self.parameters())
        if self._served is None or self._served[0] != state:
            self._served = state, self._smoothed(self._embeddings()).detach()
        vectors = self._served[1]
        return (
            None if users is None else vectors[users * (users <= self.n_users)],
            None if items is None else vectors[items + self.n_users + 1],
        )

    def _embeddings(self) -> Tensor:
        """`[n_users + 1 + n_items + 1, width]`, users first."""
        device = self.popularity.device
        users, items = (torch.arange(n + 1, device=device) for n in (self.n_users, self.n_items))
        return torch.cat([self.users(users), self.items(items)])

    def _smoothed(self, layer: Tensor) -> Tensor:
        """The mean over layers, of which `layer` is the first."""
        total = layer
        for _ in range(self.layers):
            layer = _SymmetricProduct.apply(self.adjacency, layer)
            total = total + layer
        return total / (self.layers + 1)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._served = None  # the weights change places without telling
        return super()._apply(fn, recurse)


def normalized_adjacency(interactions: Jagged, n_items: int) -> Tensor:
    """The adjacency matrix of users and items with both degrees taken out, `D^(-1/2) A D^(-1/2)`.

    Args:
        interactions: distinct items of each user 0..n_users, as a catalogue has them.
        n_items: items are 1..n_items.

    Returns:
        `[n_users + 1 + n_items + 1]` squared, sparse CSR float32, users first; rows without edges are empty.

    Example:
        >>> one_each = torch.tensor([1, 2]), torch.tensor([0, 0, 1, 2])  # user 1 had item 1, user 2 had item 2
        >>> normalized_adjacency(one_each, n_items=2).to_dense()[1].tolist()
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    items, offsets = interactions
    n_users = len(offsets) - 1
    size = n_users + n_items + 1
    users, items = torch.repeat_interleave(offsets.diff()), items + n_users
    degree = torch.bincount(torch.cat([users, items]), minlength=size).clamp(min=1).double()
    weight = (degree[users] * degree[items]).rsqrt().float()
    order = torch.argsort(items, stable=True)
    columns = torch.cat([items, users[order]])  # rows of users, then those of items, each in order
    rows = torch.bincount(torch.cat([users, items]), minlength=size).cumsum(0)
    starts = torch.cat([rows.new_zeros(1), rows])
    values = torch.cat([weight, weight[order]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # CSR is "in beta state"; of it, a product is all that is used
        return torch.sparse_csr_tensor(starts, columns, values, (size, size), check_invariants=True)


class _SymmetricProduct(torch.autograd.Function):
    """A sparse symmetric matrix times a dense one; its own transpose serves the backward pass."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, dense: Tensor) -> Tensor:
        ctx.save_for_backward(matrix)
        return matrix @ dense

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (matrix,) = ctx.saved_tensors
        return None, matrix @ grads[0]
