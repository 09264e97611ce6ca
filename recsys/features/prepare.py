"""A cache on disk that holds one event log per fingerprint of its sources."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from recsys.features.build import build_in_folder, fingerprint, source_tables
from recsys.features.disk import sync_tree
from recsys.features.event_log import EventLog
from recsys.features.log_files import MANIFEST, EventLogError, write
from recsys.features.progress import Progress
from recsys.features.schema import Schema
from recsys.features.sentence_cache import sentence_encoders
from recsys.features.tables import TableInput

DEFAULT_CACHE = Path(os.environ.get("RECSYS_CACHE", ".recsys/cache"))
"""Where prepared logs are kept when nothing else is said: `$RECSYS_CACHE`, or a folder of the working folder."""

_SENTENCES = "sentences"


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

    The log is written under a temporary name and renamed when it is complete: a killed run leaves no half log, and of
    runs side by side one writes it while the others wait. Peak memory is `memory_limit`, the vocabularies and the side
    features; it does not grow with the number of events.

    Args:
        schema: what the columns mean.
        events: the log: Parquet or CSV files, a folder or glob of them, or a DataFrame.
        items: side table of the items.
        users: side table of the users.
        cache_dir: logs are kept in `<cache_dir>/<fingerprint>`, and embeddings of sentences in `<cache_dir>/sentences`,
            so that a log whose texts are the same is not embedded again.
        memory_limit: what DuckDB may hold before it spills into the cache folder.
        progress: told of every chunk of embedded texts and of sorted events.

    Raises:
        DataError: the data cannot be used; the message names file, column, row and remedy.
        SentenceError: a sentence encoder is not there.
    """
    sources = source_tables(schema, events, items, users)
    encoders = sentence_encoders(schema)
    name = fingerprint(schema, sources, encoders)
    cache_dir = Path(cache_dir)
    final = cache_dir / name
    if not (final / MANIFEST).exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _alone(cache_dir / f".{name}.lock"):
            if not (final / MANIFEST).exists():
                remove_abandoned(cache_dir)
                with _temporary(cache_dir) as folder:
                    sentences = cache_dir / _SENTENCES
                    log = build_in_folder(schema, sources, encoders, name, folder, sentences, memory_limit, progress)
                    write(log, folder)
                    _publish(folder, final)
    return replace(EventLog.open(final), schema=schema)  # the one that wrote it may have held its tables differently


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Holds back other processes that want the same log, such as the ranks of one job: the first one makes it.

    The system lets go of the lock when its holder dies. A file system without locks lets each process make the log, and
    one of them stays.
    """
    with lock.open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _temporary(cache_dir: Path) -> Iterator[Path]:
    """A folder to write to, which is gone afterwards unless it was given another name."""
    folder = cache_dir / f"{_temporary_prefix()}{os.getpid()}-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(temporary: Path, final: Path) -> None:
    """Gives the finished log its name; another process may have been first with the same content."""
    sync_tree(temporary)
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
