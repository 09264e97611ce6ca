"""From source tables to the data of an event log."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import duckdb

from recsys.features.column_store import ColumnSink, FileSink, MemorySink
from recsys.features.encoding import encode
from recsys.features.log_data import LogData
from recsys.features.log_files import FORMAT_VERSION
from recsys.features.progress import Progress
from recsys.features.schema import Entity, Schema
from recsys.features.sentence_cache import EmbeddingCache, SentenceEmbedder, sentence_encoders
from recsys.features.sentences import SentenceEncoder
from recsys.features.side_tables import side_columns
from recsys.features.staging import stage_events
from recsys.features.tables import DataError, SourceTable, TableInput

_SPILL = "spill"
_COMPRESSION = {"compression"}
_Config = dict[str, str | bool | int | float | list[str]]


def source_tables(
    schema: Schema, events: TableInput, items: TableInput | None = None, users: TableInput | None = None
) -> dict[str, SourceTable]:
    """The tables by role (`events`, `items`, `users`).

    Raises:
        DataError: a table does not exist, or the schema needs a side table that was not given.
    """
    given = {"events": events, "items": items, "users": users}
    entities: dict[str, Entity] = {"items": "item", "users": "user"}
    for role, entity in entities.items():
        wanted = side_columns(schema, entity)
        if wanted and given[role] is None:
            raise DataError(f"the schema takes {', '.join(wanted)} from the table of {role}, and none was given")
    return {role: SourceTable.of(role, table) for role, table in given.items() if table is not None}


def fingerprint(schema: Schema, sources: Mapping[str, SourceTable], encoders: Mapping[str, SentenceEncoder]) -> str:
    """Names the content of the sources, the schema, the sentence encoders and the format of the files.

    How tables are compressed is no matter of a log: models that hold theirs differently read, and are judged on, one.
    """
    parts = {role: source.fingerprint() for role, source in sources.items()}
    identities = {name: encoder.identity for name, encoder in encoders.items()}
    declared = schema.model_dump(
        mode="json",
        exclude={"item_table": _COMPRESSION, "user_table": _COMPRESSION, "tables": {"__all__": _COMPRESSION}},
    )
    text = json.dumps([FORMAT_VERSION, declared, parts, identities], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def build(schema: Schema, sources: Mapping[str, SourceTable]) -> LogData:
    """A log in memory, by the same steps as `build_in_folder`.

    Args:
        schema: what the columns mean.
        sources: the tables by role.

    Raises:
        DataError: the data cannot be used; the message names file, column, row and remedy.
        SentenceError: a sentence encoder is not there.
    """
    encoders = sentence_encoders(schema)
    name = fingerprint(schema, sources, encoders)
    return _encoded({}, schema, sources, MemorySink(), name, SentenceEmbedder(encoders), None)


def build_in_folder(
    schema: Schema,
    sources: Mapping[str, SourceTable],
    encoders: Mapping[str, SentenceEncoder],
    name: str,
    folder: Path,
    sentences: Path,
    memory_limit: str,
    progress: Progress | None,
) -> LogData:
    """A log whose columns are files; DuckDB keeps to its memory limit and spills into the folder.

    Args:
        schema: what the columns mean.
        sources: the tables by role.
        encoders: of the sentence features, by name.
        name: fingerprint of all this.
        folder: exists; gets the columns.
        sentences: folder of the embeddings that were made before.
        memory_limit: of DuckDB.
        progress: told of every chunk of embedded texts and of sorted events.

    Raises:
        DataError: the data cannot be used.
        SentenceError: a sentence encoder is not there.
    """
    (folder / _SPILL).mkdir()
    config: _Config = {"memory_limit": memory_limit, "temp_directory": str(folder / _SPILL)}
    embed = SentenceEmbedder(encoders, EmbeddingCache(sentences, folder), progress)
    log = _encoded(config, schema, sources, FileSink(folder / "columns"), name, embed, progress)
    shutil.rmtree(folder / _SPILL)
    return log


def _encoded(
    config: _Config,
    schema: Schema,
    sources: Mapping[str, SourceTable],
    sink: ColumnSink,
    name: str,
    embed: SentenceEmbedder,
    progress: Progress | None,
) -> LogData:
    """Stages and encodes in a DuckDB of the given configuration."""
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        staged = stage_events(connection, sources["events"], schema)
        return encode(staged, sources, schema, sink, name, embed, progress)
