"""Matrix factorisation and item-item neighbours, fitted by the library `implicit`.

`implicit` fits; scoring is done here on the fitted tensors, in blocks and on any device, so that a saved model needs
neither `implicit` nor a pickle. A user whose history holds no item of the training events is scored by popularity.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix, spmatrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.interactions import Interactions, interactions, training_matrix
from recsys.models.recommender import FittedRecommender, VectorRecommender

if TYPE_CHECKING:
    from recsys.features.splits import Split


class _ImplicitModel(FittedRecommender):
    """What the adapters share: one fit through the library, and the distinct items of a history."""

    counts: bool

    @abc.abstractmethod
    def _fit(self, matrix: csr_matrix) -> dict[str, Tensor]:
        """Fits a model of `implicit` to `[n_users, n_items]` and returns the tensors to keep."""

    def fit(self, split: Split) -> None:
        matrix = training_matrix(split, self.counts)
        import implicit  # noqa: F401  (it loads BLAS libraries, which must be there to be limited)

        # implicit runs its own threads and asks for a BLAS of one thread; it warns when it finds another.
        with threadpool_limits(1, user_api="blas"):
            fitted = self._fit(matrix)
        self.tensors = {"popularity": torch.from_numpy(split.train_counts()).float(), **fitted}

    def _interactions(self, batch: SequenceBatch) -> Interactions:
        """Distinct items of the histories, of which training knows at least one event."""
        found = interactions(batch, self.state()["popularity"] > 0)
        return found if self.counts else found._replace(count=torch.ones_like(found.count))


class _Factors(_ImplicitModel, VectorRecommender):
    """Factor models. One more dimension holds the popularity of items; only users without a vector have a 1 there."""

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        state = self.state()
        popularity = state["popularity"] / state["popularity"].max().clamp(min=1)
        vectors = torch.cat([state["item_factors"], popularity[:, None]], dim=1)
        return vectors if ids is None else vectors[ids]

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        factors, known = self._user_factors(batch)
        return torch.cat([factors * known[:, None], (~known[:, None]).to(factors)], dim=1)

    @abc.abstractmethod
    def _user_factors(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Factors `[B, d]` float32 and which rows have any, `[B]` bool."""


class ALS(_Factors):
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
        return {"item_factors": torch.from_numpy(_with_padding(model.item_factors))}

    def _user_factors(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        factors = self.state()["item_factors"].double()
        gram = factors.T @ factors
        gram.diagonal().add_(self.regularization)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))

        row, item, count = self._interactions(batch)
        length = torch.bincount(row, minlength=len(batch))
        position = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
        solved = factors.new_zeros(len(batch), factors.shape[1])
        for users in _blocks(length, factors.shape[1]):
            slot = torch.full_like(length, -1)
            slot[users] = torch.arange(len(users), device=users.device)
            inside = slot[row] >= 0
            cell = slot[row[inside]], position[inside]
            shape = len(users), int(length[users].max())
            items = item.new_zeros(shape).index_put_(cell, item[inside])  # row 0 of the factors is zero
            confidence = factors.new_zeros(shape).index_put_(cell, self.alpha * count[inside].double())
            solved[users] = _fold_in(factors[items], confidence, gram, inverse)
        return solved.float(), length > 0


class BPR(_Factors):
    """Bayesian personalised ranking: the fitted vector of a user, else the mean vector of the history's items.

    Item vectors hold the library's item bias as a dimension of its own, where every user has a 1.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.

    Args:
        factors: dimension d.
        learning_rate: step size of stochastic gradient descent.
        regularization: weight of the squared norms.
        iterations: passes over the training events.
        seed: of the initial factors and of the sampled negatives.
        threads: threads of the fit; with more than one they race, and the result is no longer reproducible.
    """

    counts = False

    def __init__(
        self,
        factors: int = 64,
        learning_rate: float = 0.01,
        regularization: float = 0.01,
        iterations: int = 100,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self.factors = factors
        self.learning_rate = learning_rate
        self.regularization = regularization
        self.iterations = iterations
        self.seed = seed
        self.threads = threads

    def _fit(self, matrix: csr_matrix) -> dict[str, Tensor]:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(
            self.factors,
            self.learning_rate,
            self.regularization,
            iterations=self.iterations,
            num_threads=self.threads,
            random_state=self.seed,
        )
        model.fit(matrix, show_progress=False)
        trained = np.diff(matrix.indptr) > 0
        return {
            "item_factors": torch.from_numpy(_with_padding(model.item_factors)),
            "user_factors": torch.from_numpy(_with_padding(model.user_factors * trained[:, None])),
        }

    def _user_factors(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        items, users = self.state()["item_factors"], self.state()["user_factors"]
        row, item, _ = self._interactions(batch)
        length = torch.bincount(row, minlength=len(batch))
        mean = items.new_zeros(len(batch), items.shape[1]).index_add_(0, row, items[item])
        mean /= length[:, None].clamp(min=1)
        mean[:, -1] = 1
        fitted = users[batch.user_id.clamp(max=len(users) - 1) * (batch.user_id < len(users))]
        trained = fitted[:, -1] == 1  # the library's constant factor; zero for users that training did not see
        return torch.where(trained[:, None], fitted, mean), trained | (length > 0)


class ItemItem(_ImplicitModel):
    """Scores an item by the sum of its similarities to the items of the history.

    Items without a similar one in the history follow after all others, by popularity. Scoring holds one
    `[B, n_items + 1]` matrix.

    Args:
        neighbours: similar items kept for each item, itself included.
        counts: let repeated events weigh more.
    """

    def __init__(self, neighbours: int = 100, counts: bool = False) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.counts = counts

    @abc.abstractmethod
    def _weigh(self, matrix: spmatrix) -> spmatrix:
        """Weights of the pairs `[n_items, n_users]`; the similarity of two items is the product of their rows."""

    def _fit(self, matrix: csr_matrix) -> dict[str, Tensor]:
        from implicit.nearest_neighbours import ItemItemRecommender

        model = ItemItemRecommender(K=self.neighbours)
        model.fit(self._weigh(matrix.T).T.tocsr(), show_progress=False)
        similarity = model.similarity
        similarity.sort_indices()
        return {
            "similarity_crow": torch.from_numpy(np.concatenate([[0], similarity.indptr]).astype(np.int64)),
            "similarity_column": torch.from_numpy((similarity.indices + 1).astype(np.int32)),
            "similarity_value": torch.from_numpy(similarity.data.astype(np.float32)),
        }

    @torch.no_grad()
    def scores(self, batch: SequenceBatch) -> Tensor:
        state = self.state()
        width = self.n_items + 1
        row, item, count = (part.cpu().numpy() for part in self._interactions(batch))
        history = csr_matrix((count.astype(np.float32), (row, item)), shape=(len(batch), width))
        value, column, crow = (state[f"similarity_{part}"].cpu().numpy() for part in ("value", "column", "crow"))
        similar = history @ csr_matrix((value, column, crow), shape=(width, width))
        similar.eliminate_zeros()
        popularity = state["popularity"].cpu()
        scores = (popularity - popularity.max() - 1).repeat(len(batch), 1)  # below zero, hence below every similarity
        first = np.repeat(np.arange(len(batch)) * width, np.diff(similar.indptr))
        scores.view(-1)[torch.from_numpy(first + similar.indices)] = torch.from_numpy(similar.data)
        scores[:, 0] = -torch.inf
        return scores.to(batch.user_id.device)


class BM25(ItemItem):
    """Item-item neighbours whose similarity weighs events by BM25: active users and popular items count less.

    Args:
        neighbours: similar items kept for each item, itself included.
        k1: saturation of counts.
        b: how far an item's weight is divided by its popularity, 0 to 1.
        counts: let repeated events weigh more.
    """

    def __init__(self, neighbours: int = 100, k1: float = 1.2, b: float = 0.2, counts: bool = False) -> None:
        super().__init__(neighbours, counts)
        self.k1 = k1
        self.b = b

    def _weigh(self, matrix: spmatrix) -> spmatrix:
        from implicit.nearest_neighbours import bm25_weight

        return bm25_weight(matrix, self.k1, self.b)


class Cosine(ItemItem):
    """Item-item neighbours by the cosine of the items' columns of users."""

    def _weigh(self, matrix: spmatrix) -> spmatrix:
        from implicit.nearest_neighbours import normalize

        return normalize(matrix)


class TFIDF(ItemItem):
    """Item-item neighbours by the cosine of columns in which active users weigh less."""

    def _weigh(self, matrix: spmatrix) -> spmatrix:
        from implicit.nearest_neighbours import normalize, tfidf_weight

        return normalize(tfidf_weight(matrix))


def _with_padding(rows: np.ndarray) -> np.ndarray:
    """The rows of ids 1..n after a zero row for id 0, float32."""
    return np.concatenate([np.zeros_like(rows[:1]), rows]).astype(np.float32, copy=False)


def _fold_in(factors: Tensor, confidence: Tensor, gram: Tensor, inverse: Tensor) -> Tensor:
    """Solves `(gram + sum_j (c_j - 1) y_j y_j^T) x = sum_j c_j y_j` for every user.

    A history of n items shorter than d is solved in its n unknowns (push-through identity), any other one in d.

    Args:
        factors: `[B, n, d]` float64, the y; zero rows fill up shorter histories.
        confidence: `[B, n]` float64, the c.
        gram: `[d, d]`, with the regularisation on its diagonal.
        inverse: of `gram`.
    """
    excess = (confidence - 1)[:, :, None]
    n, d = factors.shape[1:]
    if n >= d:
        normal = gram + factors.mT @ (excess * factors)
        return torch.linalg.solve(normal, (confidence[:, None] @ factors)[:, 0])
    projected = factors @ inverse
    kernel = excess * (projected @ factors.mT)
    kernel.diagonal(dim1=1, dim2=2).add_(1)
    weight = torch.linalg.solve(kernel, confidence)
    return (weight[:, None] @ projected)[:, 0]


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
