"""Alternating least squares, fitted by the library `implicit`; users are folded in from their histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.implicit_base import FactorModel, with_padding

if TYPE_CHECKING:
    from recsys.features.splits import Split


class ALS(FactorModel):
    """Alternating least squares for implicit feedback; a user is folded in from the history of the batch.

    Source: Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.

    Args:
        factors: dimension d.
        regularization: weight of the squared norms.
        alpha: confidence of an observed pair (times its count with `counts`); an unobserved one has 1.
        iterations: alternations of the fit.
        counts: let repeated events raise the confidence.
        seed: of the initial factors.
    """

    def __init__(
        self,
        factors: int = 64,
        regularization: float = 0.01,
        alpha: float = 5.0,
        iterations: int = 15,
        counts: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.factors = factors
        self.regularization = regularization
        self.alpha = alpha
        self.iterations = iterations
        self.counts = counts
        self.seed = seed
        self._shared: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def example(cls, split: Split) -> Self:
        """Two factors: more would fit the zeros of a small log exactly, and recommend nothing new."""
        model = cls(factors=2)
        model.fit(split)
        return model

    def _fit(self, matrix: csr_matrix) -> dict[str, Tensor]:
        from implicit.cpu.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            self.factors, self.regularization, self.alpha, iterations=self.iterations, random_state=self.seed
        )
        model.fit(matrix, show_progress=False)
        return {"item_factors": with_padding(torch.from_numpy(model.item_factors))}

    def _user_factors(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        gram, inverse = self._normal_equations()
        row, item, count = self._interactions(batch)
        # Only the items that the histories name leave float32, and each is multiplied by the inverse once.
        distinct, place = torch.unique(item, return_inverse=True)
        factors = with_padding(self.state()["item_factors"][distinct].double())
        projected = factors @ inverse
        length = torch.bincount(row, minlength=len(batch))
        position = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
        solved = factors.new_zeros(len(batch), factors.shape[1])
        for users in _blocks(length, factors.shape[1]):
            slot = torch.full_like(length, -1)
            slot[users] = torch.arange(len(users), device=users.device)
            inside = slot[row] >= 0
            cell = slot[row[inside]], position[inside]
            shape = len(users), int(length[users].max())
            items = item.new_zeros(shape).index_put_(cell, place[inside] + 1)  # row 0 of the factors is zero
            confidence = factors.new_zeros(shape).index_put_(cell, self.alpha * count[inside].double())
            if shape[1] < factors.shape[1]:
                solved[users] = _solve_short(factors[items], projected[items], confidence)
            else:
                solved[users] = _solve_long(factors[items], confidence, gram)
        return solved.float(), length > 0

    def _normal_equations(self) -> tuple[Tensor, Tensor]:
        """What every fold-in shares, `[d, d]` float64: the regularised Gram matrix of the items, and its inverse.

        A batch of a few hundred users takes less time than these two, so they are kept until the factors change.
        """
        factors = self.state()["item_factors"]
        if self._shared is None or self._shared[0] is not factors:
            wide = factors.double()
            gram = wide.T @ wide
            gram.diagonal().add_(self.regularization)
            self._shared = factors, gram, torch.cholesky_inverse(torch.linalg.cholesky(gram))
        return self._shared[1:]


def _solve_short(factors: Tensor, projected: Tensor, confidence: Tensor) -> Tensor:
    """Solves `(gram + sum_j (c_j - 1) y_j y_j^T) x = sum_j c_j y_j` for histories of n < d items.

    The push-through identity turns the system of d unknowns into one of n.

    Args:
        factors: `[B, n, d]` float64, the y; zero rows fill up shorter histories.
        projected: `[B, n, d]` float64, the y times the inverse of `gram`.
        confidence: `[B, n]` float64, the c.
    """
    kernel = (confidence - 1)[:, :, None] * (projected @ factors.mT)
    kernel.diagonal(dim1=1, dim2=2).add_(1)
    weight = torch.linalg.solve(kernel, confidence)
    return (weight[:, None] @ projected)[:, 0]


def _solve_long(factors: Tensor, confidence: Tensor, gram: Tensor) -> Tensor:
    """The same for histories of at least d items, in d unknowns; `gram` `[d, d]` has the regularisation in it."""
    normal = gram + factors.mT @ ((confidence - 1)[:, :, None] * factors)
    return torch.linalg.solve(normal, (confidence[:, None] @ factors)[:, 0])


def _blocks(length: Tensor, width: int, budget: int = 1 << 24) -> list[Tensor]:
    """Users with a history, in blocks of similar length: at most half of a block is filled up.

    Args:
        length: `[B]` int64.
        width: dimension of the factors.
        budget: numbers that the factors and the system of a block may hold (128 MiB in float64).
    """
    bucket = torch.frexp(length.double()).exponent
    blocks: list[Tensor] = []
    for exponent in torch.unique(bucket[length > 0]).tolist():
        users = torch.nonzero(bucket == exponent)[:, 0]
        longest = 1 << exponent
        blocks.extend(users.split(max(1, budget // (max(longest, width) * min(longest, width)))))
    return blocks
