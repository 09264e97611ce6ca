"""The log of a job: one that is prepared already, or raw tables read with the schema of the model."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.candidates.files import JobError
from recsys.features.build import fingerprint, source_tables
from recsys.features.event_log import EventLog
from recsys.features.log_files import MANIFEST
from recsys.features.prepare import prepare
from recsys.features.progress import Progress
from recsys.features.schema import EventColumns, Schema
from recsys.features.tables import DataError, SourceTable

_READ = ("user_id", "item_id", "timestamp", "timestamp_unit", "order", "action", "query")
"""What a model is told of an event."""


def is_prepared(source: str) -> bool:
    """Whether a source is the folder of a prepared log."""
    return (Path(source) / MANIFEST).is_file()


def log_fingerprint(source: str, schema: Schema) -> str:
    """Names the content of a log.

    Raises:
        JobError: there is no such log.
        DataError: a file cannot be read.
    """
    if is_prepared(source):
        try:
            return str(json.loads((Path(source) / MANIFEST).read_bytes())["fingerprint"])
        except (ValueError, KeyError) as error:
            raise JobError(f"{Path(source) / MANIFEST}: damaged ({error}); prepare the log again") from None
    return fingerprint(event_schema(schema), source_tables(event_schema(schema), source), {})


def open_log(
    source: str, schema: Schema, cache: Path, memory_limit: str = "1GB", progress: Progress | None = None
) -> EventLog:
    """Opens a log; raw tables are sorted and written to `cache` first, where they are not there from before.

    Args:
        source: folder of a prepared log, or Parquet or CSV: a file, a folder or a glob.
        schema: of the log that trained the model; its columns of events are read, and no feature.
        cache: folder for raw tables that are prepared.
        memory_limit: what sorting may hold before it spills.
        progress: told of every chunk of sorted events.

    Raises:
        DataError: the data cannot be used; the message names file, column, row and remedy.
    """
    if is_prepared(source):
        return EventLog.open(source)
    try:
        return prepare(event_schema(schema), source, cache_dir=cache, memory_limit=memory_limit, progress=progress)
    except (DataError, duckdb.Error) as error:
        if (bad := _unreadable(source)) is not None:
            raise DataError(
                f"{bad[0]}: this file of the log cannot be read ({bad[1]}); bring it back, or leave it out, and start "
                "the same command again"
            ) from error
        raise


def event_schema(schema: Schema) -> Schema:
    """The columns of events that models read, and nothing of side tables."""
    events = EventColumns(**{name: getattr(schema.events, name) for name in _READ})
    return Schema(name=schema.name, events=events, duplicates=schema.duplicates)


def _unreadable(source: str) -> tuple[Path, str] | None:
    """The first Parquet file that cannot be read to its end; a log in one piece does not tell which it was."""
    for path in SourceTable.of("events", source).files:
        try:
            if path.suffix in (".parquet", ".pq"):
                for _ in pq.ParquetFile(path).iter_batches():
                    pass
        except (pa.ArrowException, OSError) as error:
            return path, str(error).splitlines()[0]
    return None
