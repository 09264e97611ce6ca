"""From staged events and side tables to the data of an event log: vocabularies, codes, columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.features.column_store import Chunk, ColumnSink
from recsys.features.embedding_table import Table
from recsys.features.encoders import build_encoders, id_encoder
from recsys.features.event_stream import merge_duplicates, sorted_events
from recsys.features.jagged import offsets_of
from recsys.features.log_data import LogData
from recsys.features.progress import Progress
from recsys.features.raw_values import RawValues
from recsys.features.schema import CODES, DENSE, Entity, Feature, Schema
from recsys.features.sentence_cache import SentenceEmbedder
from recsys.features.sentences import SentenceModel
from recsys.features.side_features import SideFeatures, raw_values, side_features
from recsys.features.side_tables import SideTable, query_table, read_side_table, side_columns
from recsys.features.staging import Staged
from recsys.features.table_usage import Lookups, TableUsage
from recsys.features.tables import DataError, SourceTable
from recsys.features.vocabulary import Encoder, Vocabulary, as_values

_MAX_IDS = 2**31 - 2


def encode(
    staged: Staged,
    sources: Mapping[str, SourceTable],
    schema: Schema,
    sink: ColumnSink,
    fingerprint: str,
    embed: SentenceEmbedder,
    progress: Progress | None = None,
) -> LogData:
    """Everything after staging: vocabularies, side features, codes, order, columns.

    Args:
        staged: the checked events.
        sources: the side tables by role.
        schema: what the columns mean.
        sink: takes the columns.
        fingerprint: the name of the log.
        embed: embeds the texts of sentence features.
        progress: told of every chunk of sorted events.

    Raises:
        DataError: a side table cannot be used, or there are more ids than a log can hold.
        SentenceError: a sentence encoder cannot be loaded.
    """
    user_table = schema.user_table or Table()
    users, user_events = _id_vocabulary(staged, "user_id", user_table)
    items, item_events = _id_vocabulary(staged, "item_id", schema.item_table)
    codes = {name: Vocabulary.of(staged.distinct(name)) for name in CODES if name in staged.coded}
    ids = {"user": users, "item": items, "query": codes.get("query", Vocabulary.of([]))}

    sides, facts = _side_tables(staged, sources, schema, users, items)
    if schema.of("query"):
        sides["query"] = query_table(staged, sources["events"], codes["query"])
    raw = {
        feature.name: raw_values(feature, side)
        for entity, side in sides.items()
        for feature in schema.of(entity)
        if feature.type not in DENSE
    }
    of_events = [_event_values(staged, feature) for feature in schema.of("event") if feature.table is not None]
    shared = build_encoders(schema, [*raw.values(), *of_events])
    encoders: dict[str, Encoder] = {
        "user_id": id_encoder(user_table, users, user_events),
        "item_id": id_encoder(schema.item_table, items, item_events),
        **shared,
        **codes,
    }
    usage = _usage(
        {name: encoders[name] for name in schema.table_names()},
        {"user_id": Lookups(users.values, user_events[1:]), "item_id": Lookups(items.values, item_events[1:])},
        [*raw.values(), *of_events],
        {"user": user_events, "item": item_events},
    )
    known = {
        entity: side_features(schema.of(entity), side, raw, encoders, len(ids[entity]), embed)
        for entity, side in sides.items()
    }
    scaling = {f.name: staged.scaling(f.name) for f in schema.of("event") if f.type == "numeric"}
    for features in known.values():
        facts |= features.facts
        scaling |= features.scaling

    columns = encoders | {f.name: encoders[f.table] for f in schema.of("event") if f.table is not None}
    columns |= {"user_id": users, "item_id": items}  # events hold the ids, whatever rows their table has for them
    lengths, kept = _write_events(sorted_events(staged, columns, scaling), staged, schema, len(users), sink, progress)
    facts |= {"events_kept": kept, "events_merged": staged.rows - kept, "users": len(users), "items": len(items)}
    item, user, query = (known.get(entity, SideFeatures()) for entity in ("item", "user", "query"))
    vectors = {**item.vectors, **user.vectors, **query.vectors}
    return LogData(
        schema=schema,
        users=users,
        items=items,
        offsets=offsets_of(lengths),
        columns=sink.close(),
        encoders=encoders,
        usage=usage,
        item_features=item.jagged,
        user_features=user.jagged,
        query_features=query.jagged,
        item_numeric=item.numeric,
        user_numeric=user.numeric,
        item_vectors=item.vectors,
        user_vectors=user.vectors,
        query_vectors=query.vectors,
        scaling=scaling,
        sentence_models={n: SentenceModel(e.identity, vectors[n].shape[1]) for n, e in embed.encoders.items()},
        item_titles=_titles(schema, sides.get("item"), items),
        fingerprint=fingerprint,
        facts=facts,
    )


def _side_tables(
    staged: Staged, sources: Mapping[str, SourceTable], schema: Schema, users: Vocabulary, items: Vocabulary
) -> tuple[dict[Entity, SideTable], dict[str, int]]:
    """The side tables that the schema wants something of, and their counts."""
    sides: dict[Entity, SideTable] = {}
    facts = {"events_read": staged.rows}
    kinds: list[tuple[Entity, str, Vocabulary]] = [("item", schema.item_key, items), ("user", schema.user_key, users)]
    for entity, key, vocabulary in kinds:
        if wanted := side_columns(schema, entity):
            side = read_side_table(staged.connection, sources[f"{entity}s"], key, wanted, vocabulary)
            sides[entity] = side
            facts[f"{entity}s_without_side_row"] = len(vocabulary) - len(side.ids)
            facts[f"{entity}s_side_rows_excluded"] = side.unused
    return sides, facts


def _event_values(staged: Staged, feature: Feature) -> RawValues:
    """The distinct values of an event feature and the events of each; which event holds which is found later."""
    values, events = staged.value_counts(feature.name)
    place = np.arange(len(values))
    return RawValues(feature, place + 1, place, as_values(values), copies=np.append(0, events))


def _usage(
    encoders: Mapping[str, Encoder],
    ids: Mapping[str, Lookups],
    features: Sequence[RawValues],
    events: Mapping[Entity, NDArray[np.int64]],
) -> dict[str, TableUsage]:
    """Which rows of each table are looked up: by the ids themselves, and by the features that feed it."""
    lookups: dict[str, list[Lookups]] = defaultdict(list, {name: [ids[name]] for name in ids})
    for raw in features:
        lookups[str(raw.feature.table)].append(Lookups.of(raw, events))
    return {name: TableUsage.of(encoder, lookups[name]) for name, encoder in encoders.items()}


def _write_events(
    chunks: Iterator[Chunk],
    staged: Staged,
    schema: Schema,
    n_users: int,
    sink: ColumnSink,
    progress: Progress | None,
) -> tuple[NDArray[np.int64], int]:
    """Writes the events in log order; the events of each user `[n_users + 1]`, and of all."""
    lengths = np.zeros(n_users + 1, dtype=np.int64)
    kept = 0
    for chunk in merge_duplicates(chunks, schema):
        user_id = chunk.pop("user_id")
        lengths += np.bincount(user_id, minlength=len(lengths))
        sink.append(chunk)
        kept += len(user_id)
        if progress is not None:
            progress("sorting and writing", kept, staged.rows)
    return lengths, kept


def _id_vocabulary(staged: Staged, name: str, table: Table) -> tuple[Vocabulary, NDArray[np.int64]]:
    """Ids of users or items, ordered by raw value, and the events of each, `[n + 1]`."""
    values, events = staged.value_counts(name)
    if len(values) + table.shared_rows > _MAX_IDS:
        raise DataError(
            f"column `{staged.columns[name].source}`: {len(values):,} distinct ids, but a log holds at most "
            f"{_MAX_IDS:,}. Split the log"
        )
    ascending, order = as_values(values).sort_values(return_indexer=True)
    return Vocabulary(ascending), np.append(0, events[order])


def _titles(schema: Schema, side: SideTable | None, items: Vocabulary) -> NDArray[np.str_] | None:
    """A readable name of every item; the raw id where the side table has none."""
    if schema.title is None or side is None:
        return None
    titles = np.array(["", *items.values.astype(str)], dtype=object)
    given = side.columns[schema.title].to_pandas()
    there = given.notna().to_numpy()
    titles[side.ids[there]] = given[there].astype(str).to_numpy(dtype=object)
    return titles.astype(str)
