"""Bayesian personalised ranking, fitted by the library `implicit`."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.implicit_base import FactorModel, with_padding


class BPR(FactorModel):
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
            "item_factors": with_padding(torch.from_numpy(model.item_factors)),
            "user_factors": with_padding(torch.from_numpy(model.user_factors * trained[:, None].astype(np.float32))),
        }

    def knows(self, user_id: Tensor) -> Tensor:
        fitted = self.state()["user_factors"][self._places(user_id)]
        return fitted[:, -1] == 1  # the library's constant factor; zero for users that training did not see

    def _places(self, user_id: Tensor) -> Tensor:
        """The rows of users, 0 for those of a later log."""
        return user_id * (user_id < len(self.state()["user_factors"]))

    def _user_factors(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        items, users = self.state()["item_factors"], self.state()["user_factors"]
        row, item, _ = self._interactions(batch)
        length = torch.bincount(row, minlength=len(batch))
        mean = items.new_zeros(len(batch), items.shape[1]).index_add_(0, row, items[item])
        mean /= length[:, None].clamp(min=1)
        mean[:, -1] = 1
        fitted, trained = users[self._places(batch.user_id)], self.knows(batch.user_id)
        return torch.where(trained[:, None], fitted, mean), trained | (length > 0)
