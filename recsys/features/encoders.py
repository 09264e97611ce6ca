"""One encoder for each table that features feed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.embedding_table import MIN_DOCUMENT_FREQUENCY, Table
from recsys.features.raw_values import RawValues
from recsys.features.schema import Feature, Schema
from recsys.features.tables import DataError
from recsys.features.vocabulary import Encoder, HashBuckets, Vocabulary


def id_encoder(table: Table, ids: Vocabulary, events: NDArray[np.int64]) -> Encoder:
    """The encoder of the table of the ids themselves, of items or of users.

    Args:
        table: as the schema declares it.
        ids: all ids of the log.
        events: `[n + 1]` int64 events of each.
    """
    if table.buckets is not None:
        return HashBuckets(table.buckets)
    own = ids.values if table.min_count is None else ids.values[events[1:] >= table.min_count]
    return Vocabulary(own, table.shared_rows)


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
    return Vocabulary.of(_vocabulary_values(table, parts), table.shared_rows)


def _vocabulary_values(table: Table, parts: Sequence[RawValues]) -> pd.Index:
    """What features bring into the vocabulary they share; unless the table says so, only words of texts can be rare."""
    if table.min_count is not None and parts:
        return frequent_values(parts, table.min_count)
    whole = [raw.distinct for raw in parts if raw.feature.type != "text"]
    texts = [raw for raw in parts if raw.feature.type == "text"]
    found = [*whole, frequent_values(texts, MIN_DOCUMENT_FREQUENCY)] if texts else whole
    return found[0].append(found[1:]) if found else pd.Index([])


def frequent_values(parts: Sequence[RawValues], min_count: int) -> pd.Index:
    """The values that are seen at least `min_count` times.

    An item's title and its description are one text, so that it states a word once; an item and a query are two, and a
    query is one for each event that it stands in: what was asked often is no rare word, though its text is one.

    Args:
        parts: features that share a table.
        min_count: how often a value must be seen.
    """
    place, values = pd.factorize(parts[0].distinct.append([raw.distinct for raw in parts[1:]]))
    starts = np.cumsum([0, *(len(raw.distinct) for raw in parts)])
    pairs: dict[tuple[str, str], list[NDArray[np.int64]]] = defaultdict(list)
    for raw, start in zip(parts, starts, strict=False):
        pairs[_stated_by(raw.feature)].append(raw.ids * len(values) + place[start + raw.at])
    copies = {_stated_by(raw.feature): raw.copies for raw in parts}
    frequency = np.zeros(len(values))
    for origin, found in pairs.items():
        pair = np.sort(np.concatenate(found))  # np.unique hashes, which takes 18 times as long for millions
        ids, value = np.divmod(pair[np.diff(pair, prepend=-1) > 0], max(len(values), 1))
        times = copies[origin]
        frequency += np.bincount(value, None if times is None else times[ids], minlength=len(values))
    return pd.Index(values[frequency >= min_count])


def _stated_by(feature: Feature) -> tuple[str, str]:
    """Features of one item, user or query are counted together; each feature of events was counted by itself."""
    return feature.entity, feature.name if feature.entity == "event" else ""
