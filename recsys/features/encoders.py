"""One encoder for each table that features feed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.raw_values import RawValues
from recsys.features.schema import Entity, Schema, Table
from recsys.features.tables import DataError
from recsys.features.vocabulary import Encoder, HashBuckets, Vocabulary

MIN_DOCUMENT_FREQUENCY = 2
"""A word enters a vocabulary when this many texts hold it; a word of one text says nothing of any other."""


def build_encoders(schema: Schema, features: Iterable[RawValues]) -> dict[str, Encoder]:
    """One encoder per table that features feed; features that share a table share its vocabulary.

    Args:
        schema: names the tables.
        features: the raw values of every feature that feeds a table.

    Raises:
        DataError: a table is fed integers by one feature and strings by another.
    """
    by_table: dict[str, list[RawValues]] = defaultdict(list)
    for raw in features:
        if raw.feature.table not in ("item_id", "user_id"):
            by_table[str(raw.feature.table)].append(raw)
    encoders = {}
    for name, parts in by_table.items():
        filled = [raw for raw in parts if len(raw.distinct)]
        if len({raw.distinct.dtype for raw in filled}) > 1:
            kinds = ", ".join(f"`{raw.feature.name}` brings {raw.distinct.dtype}" for raw in filled)
            raise DataError(f"table `{name}` is shared by features of different types: {kinds}. Write both as strings")
        encoders[name] = _table_encoder(schema.table(parts[0].feature), filled)
    return encoders


def _table_encoder(table: Table, parts: Sequence[RawValues]) -> Encoder:
    """The encoder of a table that the given features feed."""
    if table.buckets is not None:
        return HashBuckets(table.buckets)
    return Vocabulary.of(_vocabulary_values(parts), table.unknown_buckets if table.unknown == "hash" else 0)


def _vocabulary_values(parts: Sequence[RawValues]) -> pd.Index:
    """What features bring into the vocabulary they share; rare words of texts stay out."""
    whole = [raw.distinct for raw in parts if raw.feature.type != "text"]
    texts = [raw for raw in parts if raw.feature.type == "text"]
    found = [*whole, frequent_words(texts)] if texts else whole
    return found[0].append(found[1:]) if found else pd.Index([])


def frequent_words(texts: Sequence[RawValues]) -> pd.Index:
    """The words that at least `MIN_DOCUMENT_FREQUENCY` texts hold.

    An item's title and its description are one text, an item and a query are two, and a query is one for each event
    that it stands in: what was asked often is no rare word, though its text is one.

    Args:
        texts: features of type `text` that share a table.
    """
    place, words = pd.factorize(texts[0].distinct.append([raw.distinct for raw in texts[1:]]))
    starts = np.cumsum([0, *(len(raw.distinct) for raw in texts)])
    pairs: dict[Entity, list[NDArray[np.int64]]] = defaultdict(list)
    for raw, start in zip(texts, starts, strict=False):
        pairs[raw.feature.entity].append(raw.ids * len(words) + place[start + raw.at])
    copies = {raw.feature.entity: raw.copies for raw in texts}
    frequency = np.zeros(len(words))
    for entity, found in pairs.items():
        pair = np.sort(np.concatenate(found))  # np.unique hashes, which takes 18 times as long for millions
        ids, word = np.divmod(pair[np.diff(pair, prepend=-1) > 0], max(len(words), 1))
        times = copies[entity]
        frequency += np.bincount(word, None if times is None else times[ids], minlength=len(words))
    return pd.Index(words[frequency >= MIN_DOCUMENT_FREQUENCY])
