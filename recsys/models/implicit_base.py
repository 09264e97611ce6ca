"""What the models that the library `implicit` fits have in common.

`implicit` fits; scoring is done here on the fitted tensors, in blocks and on any device, so that a saved model needs
neither `implicit` nor a pickle. A user whose history holds no item of the training events is scored by popularity.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.interactions import Interactions, interactions, training_matrix
from recsys.models.recommender import FittedRecommender, VectorRecommender

if TYPE_CHECKING:
    from recsys.features.splits import Split


class ImplicitModel(FittedRecommender):
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


class FactorModel(ImplicitModel, VectorRecommender):
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


def with_padding(rows: Tensor) -> Tensor:
    """The rows `[n, d]` of ids 1..n after a zero row for id 0."""
    return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
