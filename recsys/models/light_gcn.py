"""LightGCN: embeddings of users and items, smoothed over the graph of who had what."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
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
    the batch. Vectors without gradient, which serve or measure losses, are propagated once, and again when the weights
    have changed; a step that follows them has no other.

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
        rows, place = torch.unique(torch.cat([users, items + self.n_users + 1]), return_inverse=True)
        known = None if torch.is_grad_enabled() and not self._is_known() else self._known()
        embedded = self._embeddings()
        embeddings, vectors = _Smoothed.apply(embedded, self.adjacency, self.layers, rows, known, self._forget)
        norms, sides = embeddings.square().sum(-1), place.split([len(users), len(items)])
        parts = (of.index_select(0, side) for of in (vectors, norms) for side in sides)
        return InteractionVectors(*parts)

    def encode(self, users: Tensor | None, items: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        vectors = self._known()
        return (
            None if users is None else vectors[users * (users <= self.n_users)],
            None if items is None else vectors[items + self.n_users + 1],
        )

    def _embeddings(self) -> Tensor:
        """`[n_users + 1 + n_items + 1, width]`, users first."""
        device = self.popularity.device
        users, items = (torch.arange(n + 1, device=device) for n in (self.n_users, self.n_items))
        return torch.cat([self.users(users), self.items(items)])

    def _state(self) -> tuple[int, ...]:
        """Another one after each change of the weights."""
        return tuple(weight._version for weight in self.parameters())

    def _is_known(self) -> bool:
        """Whether the weights of now have been propagated without gradient."""
        return self._served is not None and self._served[0] == self._state()

    @torch.no_grad()
    def _known(self) -> Tensor:
        """The vectors of all, `[n_users + 1 + n_items + 1, width]`, without gradient."""
        if self._served is None or self._served[0] != self._state():
            self._served = self._state(), smoothed(self._embeddings(), self.adjacency, self.layers)
        return self._served[1]

    def _forget(self) -> None:
        """Weights that change without telling: they change places, or a fused kernel takes the step of a backward."""
        self._served = None

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._forget()
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


def smoothed(
    embeddings: Tensor,
    adjacency: Tensor,
    layers: int,
    rows: Tensor | slice = slice(None),
) -> Tensor:
    """The means over layers, of which the embeddings are the first, without gradient.

    Args:
        embeddings: `[n, d]` float32.
        adjacency: `[n, n]` float32, sparse CSR.
        layers: of propagation.
        rows: `[m]` int64, of which the means are wanted; by default all.

    Returns:
        `[m, d]`.

    Example:
        >>> matrix = normalized_adjacency((torch.tensor([1]), torch.tensor([0, 0, 1])), n_items=1)  # one user, one item
        >>> smoothed(torch.tensor([[0.0], [1.0], [0.0], [5.0]]), matrix, layers=1)[[1, 3]].tolist()
        [[3.0], [3.0]]
    """
    layer, total = embeddings, embeddings[rows]
    for _ in range(layers):
        layer = product(adjacency, layer)
        total = total + layer[rows]
    return total / (layers + 1)


@torch.no_grad()
def product(matrix: Tensor, dense: Tensor) -> Tensor:
    """A sparse CSR matrix times a dense one, without gradient.

    A row is the weighted sum of a bag of rows. On a CPU torch's bags take less than half the time of its sparse
    products (`experiments/benchmarks/lightgcn_epoch.py`): they fetch rows ahead.
    """
    return F.embedding_bag(
        matrix.col_indices(),
        dense.detach(),
        matrix.crow_indices(),
        mode="sum",
        per_sample_weights=matrix.values(),
        include_last_offset=True,
    )


class _Smoothed(torch.autograd.Function):
    """Some rows of the embeddings and of their means over layers.

    The matrix is symmetric, so that gradients are propagated as embeddings are, without a tensor of all rows for each
    layer and each use: they are added up row by row where the batch has them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        adjacency: Tensor,
        layers: int,
        rows: Tensor,
        known: Tensor | None,
        forget: Callable[[], None],
    ) -> tuple[Tensor, Tensor]:
        """Of `rows` `[m]`, each once, `[m, d]` twice; `known` are the means of all rows, if somebody has them.

        `forget` is called in backward: a step will follow.
        """
        ctx.save_for_backward(adjacency, rows)
        ctx.layers, ctx.size, ctx.forget = layers, len(embeddings), forget
        return embeddings[rows], smoothed(embeddings, adjacency, layers, rows) if known is None else known[rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.forget()
        adjacency, rows = ctx.saved_tensors
        each = grads[1] / (ctx.layers + 1)
        grad = each.new_zeros(ctx.size, each.shape[1]).index_copy_(0, rows, each)
        for _ in range(ctx.layers):
            grad = product(adjacency, grad).index_add_(0, rows, each)
        return grad.index_add_(0, rows, grads[0]), None, None, None, None, None
