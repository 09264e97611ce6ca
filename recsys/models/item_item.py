"""Item-item neighbours, fitted by the library `implicit`."""

from __future__ import annotations

import abc

import numpy as np
import torch
from scipy.sparse import csr_matrix, spmatrix
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.implicit_base import ImplicitModel


class ItemItem(ImplicitModel):
    """Scores an item by the sum of its similarities to the items of the history.

    Items without a similar one in the history follow after all others, by popularity. Scoring holds one
    `[B, n_items + 1]` matrix.

    Args:
        neighbours: similar items kept for each item, itself included.
        counts: let repeated events weigh more.

    Raises:
        ValueError: no neighbour is to be kept.
    """

    def __init__(self, neighbours: int = 100, counts: bool = False) -> None:
        super().__init__()
        if neighbours < 1:  # with none the library ends the process
            raise ValueError(f"neighbours must be at least 1, not {neighbours}")
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
