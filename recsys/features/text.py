"""Texts as bags of words and of runs of characters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn, expand_ranges, offsets_of
from recsys.features.raw_values import RawValues
from recsys.features.schema import Feature
from recsys.features.vocabulary import as_values

_MARK, _BEGIN, _END = "#", "<", ">"


def text_values(feature: Feature, ids: NDArray[np.int64], texts: pa.Array) -> RawValues:
    """The words of texts, and the runs of characters where the feature wants them.

    A text gives its words first, in their order, and then the runs of each word: what `max_values` cuts is runs before
    it is words. A query that nobody has asked yet is read by the same function as the texts of a log.

    Args:
        feature: of type `text`.
        ids: `[n]` int64 dense ids of the texts, ascending.
        texts: `[n]` strings; a missing one has no words.

    Example:
        >>> feature = Feature(name="words", column="title", type="text", characters=(4, 4))
        >>> raw = text_values(feature, np.array([7]), pa.array(["Red TV!"]))
        >>> raw.distinct[raw.at].tolist()
        ['red', 'tv', '#<red', '#red>', '#<tv>']
    """
    lists = _words(texts)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    words = RawValues.of(feature, np.repeat(ids, lengths), pc.list_flatten(lists))
    return words if feature.characters is None else _with_runs(words, *feature.characters)


def _words(texts: pa.Array) -> pa.Array:
    """Lower-cased runs of letters and digits of each text, as lists."""
    spaced = pc.replace_substring_regex(pc.utf8_lower(texts), r"[^\p{L}\p{M}\p{N}]+", " ")
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(spaced))


def _with_runs(words: RawValues, shortest: int, longest: int) -> RawValues:
    """Words, and after the words of each text their runs."""
    runs, column = character_runs(words.distinct, shortest, longest)
    found = column.gather(words.at)
    ids = np.concatenate([words.ids, np.repeat(words.ids, found.lengths)])
    at = np.concatenate([words.at, found.values + len(words.distinct)])
    order = np.argsort(ids, kind="stable")
    return replace(words, ids=ids[order], at=at[order], distinct=words.distinct.append(runs))


def character_runs(words: pd.Index, shortest: int, longest: int) -> tuple[pd.Index, JaggedColumn]:
    """The runs of characters of each word, its ends marked by `<` and `>` (Bojanowski et al., 2017, section 3.2).

    A run begins with `#`, which no word holds, so that the two never meet in a table. Ends alone are no run.

    Args:
        words: `[n]` distinct strings of letters and digits.
        shortest: characters of the shortest run, marks included.
        longest: of the longest.

    Returns:
        The distinct runs, and for each word its places in them: shorter runs first, then from left to right.

    Example:
        >>> runs, column = character_runs(pd.Index(["cat"]), 3, 4)
        >>> runs[column.row(0)].tolist()
        ['#<ca', '#cat', '#at>', '#<cat', '#cat>']
    """
    marked = [f"{_BEGIN}{word}{_END}" for word in words]
    points = np.frombuffer("".join(marked).encode("utf-32-le"), dtype=np.uint32)
    lengths = np.fromiter(map(len, marked), dtype=np.int64, count=len(marked))
    starts = np.cumsum(lengths) - lengths
    owners, pieces = [], []
    for size in range(shortest, longest + 1):
        counts = np.maximum(lengths - size + 1, 0)
        first = expand_ranges(starts, counts)
        owner = np.repeat(np.arange(len(words)), counts)
        if size == 1:
            inside = ~np.isin(points[first], [ord(_BEGIN), ord(_END)])
            first, owner = first[inside], owner[inside]
        windows = np.empty((len(first), size + 1), dtype=np.uint32)
        windows[:, 0] = ord(_MARK)
        windows[:, 1:] = points[first[:, None] + np.arange(size)]
        pieces.append(windows.view(f"<U{size + 1}").ravel())
        owners.append(owner)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    coded = pa.concat_arrays([pa.array(piece, pa.string()) for piece in pieces]).dictionary_encode()
    at = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    runs = as_values(coded.dictionary.to_pandas())
    return runs, JaggedColumn(at[order], offsets_of(np.bincount(owner, minlength=len(words))))
