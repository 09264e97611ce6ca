"""From source tables to an event log: in memory, or in a cache on disk that holds one log per fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
from pathlib import Path

import duckdb

from recsys.features.column_store import ColumnSink, FileSink, MemorySink
from recsys.features.encoding import Progress, encode
from recsys.features.event_log import FORMAT_VERSION, MANIFEST, EventLog, EventLogError
from recsys.features.schema import Entity, Schema
from recsys.features.side_features import side_columns
from recsys.features.staging import stage_events
from recsys.features.tables import DataError, SourceTable, TableInput

DEFAULT_CACHE = Path(os.environ.get("RECSYS_CACHE", ".recsys/cache"))
"""Where prepared logs are kept when nothing else is said: `$RECSYS_CACHE`, or a folder of the working folder."""

_SPILL = "spill"


def build(
    schema: Schema, events: TableInput, items: TableInput | None = None, users: TableInput | None = None
) -> EventLog:
    """A log in memory, from the same sources and by the same steps as `prepare`.

    Args:
        schema: what the columns mean.
        events: the log.
        items: side table of the items.
        users: side table of the users.

    Raises:
        DataError: the data cannot be used; the message names file, column, row and remedy.
    """
    sources = source_tables(schema, events, items, users)
    return _build(schema, sources, fingerprint(schema, sources), MemorySink())


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


def _build(
    schema: Schema,
    sources: dict[str, SourceTable],
    name: str,
    sink: ColumnSink,
    folder: Path | None = None,
    memory_limit: str = "1GB",
    progress: Progress | None = None,
) -> EventLog:
    """Stages and encodes; with a folder, DuckDB keeps to its memory limit and spills there."""
    config: dict[str, str | bool | int | float | list[str]] = {}
    if folder is not None:
        (folder / _SPILL).mkdir()
        config |= {"memory_limit": memory_limit, "temp_directory": str(folder / _SPILL)}
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        staged = stage_events(connection, sources["events"], schema)
        log = encode(staged, sources, schema, sink, name, progress)
    if folder is not None:
        shutil.rmtree(folder / _SPILL)
    return log


def fingerprint(schema: Schema, sources: dict[str, SourceTable]) -> str:
    """Names the content of the sources, the schema and the format of the cache."""
    parts = {role: source.fingerprint() for role, source in sources.items()}
    text = json.dumps([FORMAT_VERSION, schema.model_dump(mode="json"), parts], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def prepare(
    schema: Schema,
    events: TableInput,
    items: TableInput | None = None,
    users: TableInput | None = None,
    *,
    cache_dir: str | Path = DEFAULT_CACHE,
    memory_limit: str = "1GB",
    progress: Progress | None = None,
) -> EventLog:
    """Turns source tables into a memory-mapped event log, or opens the one made of the same sources before.

    The log is written under a temporary name and renamed when it is complete: a killed run leaves no half log, and
    runs side by side do not disturb each other. Peak memory is `memory_limit`, the vocabularies and the side features;
    it does not grow with the number of events.

    Args:
        schema: what the columns mean.
        events: the log: Parquet or CSV files, a folder or glob of them, or a DataFrame.
        items: side table of the items.
        users: side table of the users.
        cache_dir: logs are kept in `<cache_dir>/<fingerprint>`.
        memory_limit: what DuckDB may hold before it spills into the cache folder.
        progress: told of every chunk of sorted events.

    Raises:
        DataError: the data cannot be used; the message names file, column, row and remedy.
    """
    sources = source_tables(schema, events, items, users)
    name = fingerprint(schema, sources)
    cache_dir = Path(cache_dir)
    final = cache_dir / name
    if not (final / MANIFEST).exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        remove_abandoned(cache_dir)
        temporary = cache_dir / f"{_temporary_prefix()}{os.getpid()}-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            log = _build(schema, sources, name, FileSink(temporary / "columns"), temporary, memory_limit, progress)
            log.save(temporary)
            _publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return EventLog.open(final)


def _publish(temporary: Path, final: Path) -> None:
    """Gives the finished log its name; another process may have been first with the same content."""
    try:
        temporary.rename(final)
    except OSError as error:
        if not (final / MANIFEST).exists():
            raise EventLogError(f"{final}: cannot be written ({error}); delete the folder if it is there") from error


def _temporary_prefix() -> str:
    return f".writing-{socket.gethostname()}-"


def remove_abandoned(cache_dir: Path) -> None:
    """Removes what killed runs of this machine left behind."""
    for folder in cache_dir.glob(f"{_temporary_prefix()}*"):
        process = folder.name.removeprefix(_temporary_prefix()).split("-")[0]
        if not Path("/proc/self").exists() or Path(f"/proc/{process}").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
