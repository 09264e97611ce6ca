"""Queries for a log of purchases that has none: a few generic words of the bought item, drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from recsys.features.jagged import JaggedColumn, expand_ranges, offsets_of

STOP_WORDS = frozenset(("amp", "and", "categories", "for", "the", "with"))
"""Frequent words that nobody would search for: function words, and what is left of markup and of table headings."""


@dataclass(frozen=True)
class Shares:
    """How queries are drawn.

    Attributes:
        searches: share of the events that were searches.
        noise: share of the words of queries that are of other items.
        lengths: share of the queries that want 1, 2, ... words; an item with fewer generic words gives those it has.
        rarest: items that must hold a generic word.
        commonest: items that may hold it.
    """

    searches: float = 0.3
    noise: float = 0.1
    lengths: tuple[float, ...] = (0.6, 0.3, 0.1)
    rarest: int = 10
    commonest: int = 500


class GenericWords(NamedTuple):
    """The generic words of a catalogue of I items.

    Attributes:
        words: `[V]` distinct words in alphabetical order.
        of_item: I rows of places in `words`, ascending and distinct within a row.
    """

    words: np.ndarray
    of_item: JaggedColumn


def tokens(texts: pd.Series) -> pd.Series:
    """Lower-cased runs of letters and digits, one a row under the index of their text; an empty text gives none."""
    return texts.str.lower().str.findall(r"[^\W_]+").explode().dropna()


def generic_words(texts: pd.Series, rarest: int, commonest: int) -> GenericWords:
    """The words of three Latin letters or more that `rarest` to `commonest` texts hold, stop words left out.

    Args:
        texts: `[I]` strings, one an item.
        rarest: texts that must hold a word.
        commonest: texts that may hold it.
    """
    found = tokens(texts.reset_index(drop=True)).rename("word").rename_axis("item").reset_index().drop_duplicates()
    found = found[found["word"].str.fullmatch("[a-z]{3,}") & ~found["word"].isin(STOP_WORDS)]
    frequency = found["word"].value_counts()
    generic = np.array(sorted(frequency.index[frequency.between(rarest, commonest)]), dtype=object)
    found["code"] = pd.Index(generic, dtype=object).get_indexer(found["word"].astype(object))
    found = found[found["code"] >= 0].sort_values(["item", "code"])
    lengths = np.bincount(found["item"].to_numpy(dtype=np.int64), minlength=len(texts))
    return GenericWords(generic, JaggedColumn(found["code"].to_numpy(dtype=np.int64), offsets_of(lengths)))


def draw_queries(
    item: np.ndarray, generic: GenericWords, shares: Shares, seed: int
) -> tuple[np.ndarray, dict[str, int]]:
    """Decides which events were searches, and what for.

    The words of a query stand in alphabetical order: the same words are the same query.

    Args:
        item: `[E]` int64, the bought item of each event, a row of `generic.of_item`.
        generic: what may be searched for.
        shares: how much of what.
        seed: of everything that is drawn.

    Returns:
        `[E]` queries, None where the event was no search; and counts: `searches`, `searches_without_words` (drawn for
        an item without a generic word, so left without a query), `words` and `noise_words` of all queries.
    """
    random = np.random.default_rng(seed)
    drawn = np.flatnonzero(random.random(len(item)) < shares.searches)
    searches = drawn[generic.of_item.lengths[item[drawn]] > 0]
    own = generic.of_item.gather(item[searches])  # the words of the item behind each query
    wanted = 1 + random.choice(len(shares.lengths), len(searches), p=shares.lengths)
    length = np.minimum(wanted, own.lengths)
    row = np.repeat(np.arange(len(searches)), own.lengths)
    shuffled = np.lexsort((random.random(len(row)), row))  # words in random order, query by query
    taken = shuffled[expand_ranges(np.zeros_like(length), own.lengths) < length[row]]
    row, word = row[taken], own.values[taken]
    # Noise needs enough words that the item does not hold; every item of a real catalogue leaves them.
    possible = len(generic.words) - own.lengths >= length
    noisy = np.flatnonzero((random.random(len(word)) < shares.noise) & possible[row])
    word = _with_noise(word, noisy, row, item[searches], generic, random)
    queries = np.full(len(item), None, dtype=object)
    queries[searches] = _joined(row, word, generic.words, len(shares.lengths))
    counts = {
        "searches": len(searches),
        "searches_without_words": len(drawn) - len(searches),
        "words": len(word),
        "noise_words": len(noisy),
    }
    return queries, counts


def _with_noise(
    word: np.ndarray,
    noisy: np.ndarray,
    row: np.ndarray,
    item: np.ndarray,
    generic: GenericWords,
    random: np.random.Generator,
) -> np.ndarray:
    """Words of other items at the places `noisy`, each as often as items hold it; no query gets a word twice.

    Args:
        word: `[W]` words of all queries.
        noisy: places in `word`, ascending.
        row: `[W]` the query of each word.
        item: `[Q]` the item behind each query.
        generic: the words.
        random: what is drawn from.
    """
    size = len(generic.words)
    held = np.repeat(np.arange(len(generic.of_item)), generic.of_item.lengths) * size + generic.of_item.values
    word, waiting = word.copy(), noisy
    while len(waiting):  # about one round in a hundred words draws again
        word[waiting] = random.choice(generic.of_item.values, len(waiting))
        of_own = np.isin(item[row[waiting]] * size + word[waiting], held)
        twice = pd.Series(row * size + word).duplicated(keep=False).to_numpy()[waiting]
        waiting = waiting[of_own | twice]
    return word


def _joined(row: np.ndarray, word: np.ndarray, words: np.ndarray, longest: int) -> np.ndarray:
    """The texts of queries: `word[i]` belongs to the query `row[i]` (ascending, none is empty)."""
    length = np.bincount(row)
    grid = np.full((len(length), longest), "", dtype=object)
    order = np.lexsort((word, row))
    grid[row[order], expand_ranges(np.zeros_like(length), length)] = words[word[order]]
    text = grid[:, 0]
    for column in grid.T[1:]:
        text = text + np.where(column == "", "", " ") + column
    return text
