"""What there is to know about a search log: how many searches, and how many items answer one equally well."""

from __future__ import annotations

import numpy as np
import pandas as pd
from _search_queries import tokens
from scipy.sparse import csr_matrix

BLOCK = 2048
"""Queries matched at a time; a block of common words matches a few million items."""


def facts(events: pd.DataFrame, items: pd.DataFrame, text: str) -> dict[str, float]:
    """Counts, and ties: the items whose text holds every word of a query.

    Args:
        events: rows (user_id, item_id, query); `query` is missing where the event was no search.
        items: rows (item_id, `text`).
        text: column of the items' texts.
    """
    searches = events.dropna(subset="query")
    place, queries = pd.factorize(searches["query"])
    held, asked, words = _matrices(items[text].reset_index(drop=True), pd.Series(queries))
    ties = np.zeros(len(queries))
    for first in range(0, len(queries), BLOCK):
        block = slice(first, first + BLOCK)
        ties[block] = np.diff(_complete(asked[block] @ held.T, words[block]).indptr)
    row = pd.Index(items["item_id"]).get_indexer(searches["item_id"])
    found = np.asarray(asked[place].multiply(held[row]).sum(axis=1)).ravel()
    return {
        "users": events["user_id"].nunique(),
        "items": len(items),
        "events": len(events),
        "searches": len(searches),
        "distinct_queries": len(queries),
        "words_per_search": float(words[place].mean()),
        "items_with_every_word": float(ties[place].mean()),
        "items_with_every_word_median": float(np.median(ties[place])),
        "bought_items_with_every_word": float((found == words[place]).mean()),
    }


def _matrices(texts: pd.Series, queries: pd.Series) -> tuple[csr_matrix, csr_matrix, np.ndarray]:
    """Which text and which query holds which word, 0 or 1, and the distinct words of each query."""
    word_of_text, word_of_query = tokens(texts), tokens(queries)
    code, _ = pd.factorize(pd.concat([word_of_text, word_of_query]))
    width = int(code.max(initial=0)) + 1
    parts = []
    for rows, codes, height in (
        (word_of_text.index, code[: len(word_of_text)], len(texts)),
        (word_of_query.index, code[len(word_of_text) :], len(queries)),
    ):
        matrix = csr_matrix((np.ones(len(codes), np.int32), (rows.to_numpy(), codes)), shape=(height, width))
        matrix.data[:] = 1  # a word that stands twice counts once (the constructor adds up)
        parts.append(matrix)
    return parts[0], parts[1], np.diff(parts[1].indptr)


def _complete(matches: csr_matrix, words: np.ndarray) -> csr_matrix:
    """The entries that count every word of their row."""
    matches.data = (matches.data == np.repeat(words, np.diff(matches.indptr))).astype(np.int32)
    matches.eliminate_zeros()
    return matches
