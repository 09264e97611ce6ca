"""BM25 over the texts of items: what a search box without a model of people answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import gather_jagged
from recsys.features.jagged import JaggedColumn, offsets_of
from recsys.models.recommender import FittedRecommender

if TYPE_CHECKING:
    from recsys.features.splits import Split


class LexicalBM25(FittedRecommender):
    """Scores an item for a query by BM25: rare words that they share count more, words of a long text less.

    The words of a query are compared with those of the item features on the same table. Items that share no word follow
    after all others, by popularity; so do all items where nobody searches, or where no word of the query is known. The
    library `bm25s` fits; scoring works on the fitted postings alone. Scoring holds one `[B, n_items + 1]` matrix.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, with the never
    negative idf of Lucene (Kamphuis et al., "Which BM25 Do You Mean?", ECIR 2020).

    Args:
        k1: saturation of repeated words.
        b: how far the length of a text counts, 0 to 1.
        prior: weight of `log(1 + training events)` beside the words; without it the many items that share the same
            words are tied.
    """

    personal = False

    def __init__(self, k1: float = 1.5, b: float = 0.75, prior: float = 0.0) -> None:
        super().__init__()
        if prior < 0:
            raise ValueError(f"prior must not be negative, got {prior}")
        self.k1 = k1
        self.b = b
        self.prior = prior

    def fit(self, split: Split) -> None:
        """Reads the texts of all items, and the popularity from the training events.

        Raises:
            ValueError: the schema has a text of queries whose table no feature of the items feeds.
        """
        log = split.log
        tensors = {"popularity": torch.from_numpy(split.train_counts()).float()}
        for name, features in log.schema.shared_words().items():
            if not features:
                raise ValueError(
                    f"schema `{log.schema.name}`: the query feature `{name}` shares no table with a feature of the "
                    "items, so that no word of a query is a word of an item; set its `table` to that of an item text"
                )
            table = next(feature.table for feature in log.schema.features if feature.name == name)
            texts = _side_by_side([log.item_features[feature] for feature in features])
            postings = self._postings(texts, log.table_rows[str(table)])
            tensors |= {f"{name}.{part}": tensor for part, tensor in postings.items()}
        self.tensors = tensors

    def _postings(self, texts: JaggedColumn, rows: int) -> dict[str, Tensor]:
        """The sparse matrix `[rows, n_items + 1]` of what each word adds to the score of each item.

        Args:
            texts: the words of the items 0..n_items, as rows of their table.
            rows: of the table.
        """
        from bm25s import BM25

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import asks for every message
        library = BM25(k1=self.k1, b=self.b, method="lucene")
        words = [part.tolist() for part in np.split(texts.values, texts.offsets[2:-1])]
        library.index((words, {word: word for word in range(rows)}), create_empty_token=False, show_progress=False)
        matrix = library.scores
        return {
            "crow": torch.from_numpy(matrix["indptr"].astype(np.int64)),
            "item": torch.from_numpy(matrix["indices"].astype(np.int64) + 1),
            "value": torch.from_numpy(matrix["data"].astype(np.float32)),
        }

    @torch.no_grad()
    def scores(self, batch: SequenceBatch) -> Tensor:
        state = self.state()
        popularity = state["popularity"]
        if batch.request_query is None:
            request = torch.zeros(len(batch), dtype=torch.int64, device=popularity.device)
        else:
            request = batch.request_query
        asked, place = torch.unique(request, return_inverse=True)
        match = popularity.new_zeros(len(asked), self.n_items + 1)
        for name, (words, offsets) in batch.queries.jagged.items() if batch.queries is not None else ():
            if f"{name}.crow" in state:
                word, lengths = gather_jagged(words, offsets, asked)
                query = torch.repeat_interleave(lengths)
                item, found = gather_jagged(state[f"{name}.item"], state[f"{name}.crow"], word)
                value, _ = gather_jagged(state[f"{name}.value"], state[f"{name}.crow"], word)
                cell = torch.repeat_interleave(query, found) * match.shape[1] + item
                match.view(-1).index_add_(0, cell, value)
        last = popularity - popularity.max() - 1  # below zero, hence below every match
        scores = torch.where(match > 0, match + self.prior * popularity.log1p(), last)
        scores[:, 0] = -torch.inf
        return scores[place]


def _side_by_side(columns: list[JaggedColumn]) -> JaggedColumn:
    """One column whose rows hold the values of the given columns one after the other."""
    row = np.concatenate([np.repeat(np.arange(len(column)), column.lengths) for column in columns])
    values: NDArray[np.int64] = np.concatenate([column.values for column in columns])
    order = np.argsort(row, kind="stable")
    return JaggedColumn(values[order], offsets_of(np.bincount(row, minlength=len(columns[0]))))
