"""Makes one part of a job: reads histories, asks the sources, merges, and writes."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from recsys.candidates.asked import Asked, of_rows
from recsys.candidates.files import sha256, write_durable
from recsys.candidates.histories import Ids, mix, segment_sums
from recsys.candidates.job import Job, part_name
from recsys.candidates.kept import Kept
from recsys.candidates.lists import ListMaker, Lists
from recsys.candidates.records import PartRecord
from recsys.candidates.staging import PAIRS, USERS, stage
from recsys.features.jagged import offsets_of
from recsys.retrieval.merging import Shortfall
from recsys.retrieval.threads import in_threads
from recsys.retrieval.topk import Jagged
from recsys.tracking.serving_requests import item_ids

POPULAR = "popularity"
"""What stands as the source of items of users who fall back."""


def make_part(job: Path, part: int) -> PartRecord:
    """Makes a part of a job and writes it: its lists, its users, and then its record.

    Writes the same bytes whenever, wherever and by how many threads it is called. A process keeps the model and the log
    of the last job for the next call.

    Args:
        job: path of `job.json`, in a folder whose inputs are ready.
        part: number of the part, from 0.

    Raises:
        JobError: a user is cold and that is refused, or a file cannot be written.
    """
    return _worker(job, job.stat().st_mtime_ns).make(part)


@lru_cache(maxsize=1)
def _worker(job: Path, written: int) -> PartWorker:
    return PartWorker(Job.read(job))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the operations of torch: how many there are may decide the last bits of a product."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def blocks(lengths: Ids, users: int, events: int) -> list[Ids]:
    """Row numbers in order of length, cut where there are so many users or events; one row at least in each.

    Example:
        >>> [block.tolist() for block in blocks(np.array([9, 1, 1, 1, 4]), users=2, events=5)]
        [[1, 2], [3, 4], [0]]
    """
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    found, first = [], 0
    while first < len(order):
        before = ends[first - 1] if first else 0
        last = min(first + users, int(np.searchsorted(ends, before + events, side="right")))
        found.append(order[first : max(last, first + 1)])
        first = max(last, first + 1)
    return found


@dataclass
class Clock:
    """Seconds of each step, of all threads together.

    Attributes:
        seconds: by the step's name.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Adds what it takes."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class PartWorker:
    """Makes parts of one job; model, log and item vectors are got ready once.

    Args:
        job: its inputs are made ready where they are not.

    Raises:
        JobError: the model does not rank and is to, or there is not the memory.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        with one_thread(), torch.no_grad():
            self.lists = ListMaker.open(job, stage(job))
        self.reader = self.lists.inputs.reader
        self._users = pq.ParquetFile(job.inputs / USERS)
        bundle = self.lists.inputs.bundle
        self._items = pa.array(bundle.items.values)
        self._sources = pa.array([*(source.called for source in job.config.opened_sources), POPULAR])
        self._reasons = pa.array([reason.name.lower() for reason in Shortfall])
        caps = self.lists.caps  # categories may come from the log, and change with it
        self._categories = np.uint64(0 if caps is None else _number(caps.categories.numpy().tobytes()))
        self._kept = None
        if (previous := job.config.previous) is not None:
            self._kept = Kept(job.folder.parent / previous, bundle.items, self._sources, self._reasons)

    def make(self, part: int) -> PartRecord:
        """Makes a part; see `make_part`."""
        clock, config = Clock(), self.job.config
        with clock.step("reading"):
            users = self._users.read_row_group(part)
            raw = users["user_id"].to_pandas().to_numpy()
            log_ids = users["log_id"].to_numpy()
            queries = np.array([*users["query"].to_pylist(), None], dtype=object)[:-1]
            pairs = {option: self._pairs(file, part, len(raw)) for option, file in PAIRS.items()}
            own = [None if given is None else given[0] for given in pairs.values()]
        found = Lists.empty(len(raw), config.k)
        unknown = np.zeros(len(raw), dtype=np.int64)

        def read(rows: Ids) -> Asked:
            histories = self.reader.read(log_ids[rows], raw[rows])
            asked_for = queries[rows] if any(queries[rows]) else None
            lists = [None if ids is None else of_rows(ids, rows) for ids in own]
            hashes = self.reader.hashes(histories, asked_for)
            for reader in self.lists.readers:
                theirs = reader.hashes(reader.read(log_ids[rows], raw[rows]), None)
                hashes = mix(mix(hashes) ^ theirs)  # mixed before, else equal ones would cancel out
            found.hashes[rows] = _with_lists(hashes, lists) ^ self._categories
            found.events[rows], unknown[rows] = histories.lengths, histories.unknown
            seen = histories.seen if config.filter_seen else None
            return Asked(self.reader, raw[rows], histories, asked_for, seen, *lists)

        def look(rows: Ids) -> None:
            with clock.step("reading"):
                read(rows)

        @torch.no_grad()
        def work(rows: Ids) -> None:
            with clock.step("reading"):
                asked = read(rows)
            self.lists.fill(found, rows, asked, clock)

        lengths = self.reader.log.offsets[log_ids + 1] - self.reader.log.offsets[log_ids]
        missing = np.arange(len(raw))
        with one_thread():
            size, threads = min(config.batch_users, self.lists.most), self.lists.threads
            if self._kept is not None:
                in_threads(look, blocks(lengths, config.batch_users, config.batch_events), threads)
                with clock.step("reading"):
                    missing = np.flatnonzero(~self._kept.fill(found, raw, found.hashes))
            in_threads(work, [missing[rows] for rows in blocks(lengths[missing], size, config.batch_events)], threads)
        with clock.step("writing"):
            files = self._write(part, users["user_id"].combine_chunks(), found)
        counts = {"cold": int(found.cold.sum()), "unknown_events": int(unknown.sum())}
        counts |= {f"{option}_unknown": given[1] for option, given in pairs.items() if given is not None}
        if self._kept is not None:
            counts["kept"] = len(raw) - len(missing)
        for reason, users_short in zip(*np.unique(found.reason[found.reason > 0], return_counts=True), strict=True):
            counts[f"short_{Shortfall(int(reason)).name.lower()}"] = int(users_short)
        rows = int((found.items > 0).sum())
        seconds = {name: round(value, 3) for name, value in clock.seconds.items()}
        record = PartRecord(part, len(raw), rows, files, counts, seconds)
        write_durable(self.job.record(part), record.text())
        return record

    def _pairs(self, file: str, part: int, users: int) -> tuple[Jagged, int] | None:
        """The items of a list of users, for the users of a part, and how many the model does not know."""
        path = self.job.inputs / file
        if not path.is_file():
            return None
        pairs = pq.read_table(path, filters=[("part", "=", part)])
        ids = item_ids(self.reader.bundle, pairs["item"].combine_chunks())
        row = pairs["row"].to_numpy()[ids > 0]
        offsets = offsets_of(np.bincount(row, minlength=users))
        return Jagged(torch.from_numpy(ids[ids > 0]), torch.from_numpy(offsets)), int((ids == 0).sum())

    def _write(self, part: int, users: pa.Array, found: Lists) -> dict[str, str]:
        """Writes lists and users; the hash of each file by its path."""
        row, rank = np.nonzero(found.items)
        n, job = len(row), self.job
        at = pa.scalar(datetime.fromisoformat(job.generated_at), pa.timestamp("us", "UTC"))
        lists = pa.table(
            {
                "user_id": users.take(pa.array(row)),
                "item_id": self._items.take(pa.array(found.items[row, rank] - 1)),
                "rank": pa.array((rank + 1).astype(np.int32)),
                "score": pa.array(found.scores[row, rank]),
                "source": self._sources.take(pa.array(found.source[row, rank])),
                "model_version": pa.repeat(pa.scalar(job.model_version), n),
                "generated_at": pa.repeat(at, n),
            }
        )
        reason = self._reasons.take(pa.array(found.reason))
        of_users = pa.table(
            {
                "user_id": users,
                "items": pa.array((found.items > 0).sum(axis=1).astype(np.int32)),
                "reason": pa.compute.if_else(pa.array(found.reason > 0), reason, pa.scalar(None, pa.string())),
                "cold": pa.array(found.cold),
                "events": pa.array(found.events),
                "history": pa.array(found.hashes),
            }
        )
        name = part_name(part)
        tables = {f"{name}.parquet": lists, f"users/{name}.parquet": of_users}
        return {path: _write(job.folder / path, table) for path, table in tables.items()}


def _write(path: Path, table: pa.Table) -> str:
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_durable(path, content.getvalue())
    return sha256(content.getvalue())


def _number(content: bytes) -> int:
    """64 bits that name a content."""
    return int(sha256(content)[:16], 16)


def _with_lists(hashes: NDArray[np.uint64], lists: list[Jagged | None]) -> NDArray[np.uint64]:
    """Hashes of users that also know the items that each may and may not get."""
    for place, ids in enumerate(lists, start=1):
        if ids is not None:
            values = mix(ids.values.numpy().view(np.uint64))
            hashes = mix(hashes ^ segment_sums(values, ids.offsets.numpy()) ^ np.uint64(place))
    return hashes
