"""Users per second of the nightly candidate job: histories in, Parquet out, and where the time goes.

An untrained SynerGen gives its best items to the users of a made-up log, whose histories hold 5 to 60 events of items
drawn by a power law; seen items are left out. One more user, who is not asked for, has every item once, so that all are
in the catalogue. A rate leaves the first part of each worker out, which also loads model and log.

`ranking` is the same users asked of the same ranker with their batches at hand, by as many threads: what reading,
merging and writing cost beside it. Steps add up the seconds of all threads; `encoding_of_ranking` is the share of
`ranking` that computes the vectors of users, the rest scores and selects. With `--workers` the parts are made on a Ray
cluster of this machine by so many workers of one thread each, which must write the same lists.

    python experiments/benchmarks/candidate_job.py
    python experiments/benchmarks/candidate_job.py --items 12101 --users 2000 --workers 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _record import ratio, record

from recsys.candidates.config import JobConfig
from recsys.candidates.engine import Engine, InProcess, Work
from recsys.candidates.histories import HistoryReader
from recsys.candidates.part import blocks, one_thread
from recsys.candidates.records import PartRecord
from recsys.candidates.run import Outcome, run_job
from recsys.candidates.sources import SCAN
from recsys.cli.allocator import keep_freed_memory
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.synergen import SynerGen
from recsys.retrieval.threads import in_threads
from recsys.retrieval.topk import Ranker
from recsys.tracking.bundle import Bundle

LENGTH, LEAST, MOST = 50, 5, 60


class Timed:
    """An engine that notes when each part was there."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.arrivals: list[tuple[float, int]] = []

    def run(self, parts: Sequence[int], work: Work) -> Iterator[PartRecord]:
        for found in self.engine.run(parts, work):
            self.arrivals.append((time.perf_counter(), found.users))
            yield found

    def rate(self, workers: int) -> float:
        """Users per second after the first part of each worker."""
        others = self.arrivals[workers:]
        return sum(users for _, users in others) / (others[-1][0] - self.arrivals[workers - 1][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_101, 1_000_000])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--users-per-part", type=int, default=2_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="of a Ray cluster; default: none")
    given = parser.parse_args()
    if given.users < 2 * max([1, *given.workers]) * given.users_per_part:
        parser.error("two parts of each worker at least are wanted: lower --users-per-part")
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    ratios: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for n in given.items:
        with tempfile.TemporaryDirectory() as folder:
            found, facts = measured(n, given, Path(folder))
        ratios |= found
        details[str(n)] = facts
        print(n, json.dumps(found | facts), flush=True)
    settings = {name: getattr(given, name) for name in ("users", "users_per_part", "k", "width", "threads", "workers")}
    path = record("candidate_job", ratios, packages=("ray",), settings=settings, catalogues=details)
    print(f"written: {path.name}")


def measured(n: int, given: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ratios and facts of one catalogue."""
    log = made_log(n, given.users)
    torch.manual_seed(0)
    network = SynerGen(Catalogue.from_split(LeaveLastOut()(log), LENGTH), width=given.width, layers=2, heads=2).eval()
    Bundle.of(network, log, "untrained", LENGTH).save(folder / "model")
    log.save(folder / "log")
    pd.DataFrame({"user_id": np.arange(given.users)}).to_parquet(folder / "users.parquet")

    def job(name: str, threads: int) -> JobConfig:
        places = {place: str(folder / place) for place in ("model", "log", "out")}
        places["users"] = str(folder / "users.parquet")
        return JobConfig(**places, name=name, k=given.k, users_per_part=given.users_per_part, threads=threads)

    config = job("here", given.threads)
    here, outcome = run(config, InProcess(), 1)
    ranking, encoding = ranked_alone(config)
    ratios = {f"{n}/ranking": ratio(here, ranking, "users/s")}
    seconds = dict(outcome.manifest.seconds)
    facts: dict[str, Any] = {
        "users_per_second": round(here, 1),
        "seconds_in_all": round(outcome.seconds, 1),
        "rows": outcome.manifest.rows,
        "share_of_steps": {name: round(value / sum(seconds.values()), 4) for name, value in seconds.items()},
        "encoding_of_ranking": round(encoding, 4),
    }
    rates = {}
    for workers in given.workers:
        rates[workers], other = run(job(f"ray-{workers}", 1), ray_engine(workers), workers)
        lists = [[path.read_bytes() for path in sorted((o.folder / "users").iterdir())] for o in (outcome, other)]
        if lists[0] != lists[1] or columns(outcome) != columns(other):
            raise SystemExit(f"{n}: {workers} workers wrote other lists")
    if rates:
        facts["ray_users_per_second"] = {str(workers): round(rate, 1) for workers, rate in rates.items()}
        least = min(rates)
        ratios |= {f"{n}/workers_{w}": ratio(rate, rates[least], "users/s") for w, rate in rates.items() if w != least}
    return ratios, facts


def run(config: JobConfig, engine: Engine, workers: int) -> tuple[float, Outcome]:
    """Users per second of a job, and how it ended."""
    timed = Timed(engine)
    outcome = run_job(config, timed)
    return timed.rate(workers), outcome


def ray_engine(workers: int) -> Engine:
    from recsys.candidates.ray_engine import RayEngine

    return RayEngine(workers=workers)


def columns(outcome: Outcome) -> list[Any]:
    """The lists of a job but for when it was begun."""
    names = ["user_id", "item_id", "rank", "score", "source"]
    paths = sorted(outcome.folder.glob("part-*.parquet"))
    return [pd.read_parquet(path, columns=names).to_numpy().tolist() for path in paths]


def ranked_alone(config: JobConfig) -> tuple[float, float]:
    """Users per second of the ranker alone, and the share of that which is encoding."""
    bundle, log = Bundle.load(config.model), EventLog.open(config.log)
    reader, ranker = HistoryReader(log, bundle), Ranker(bundle.model, scan=SCAN)
    ranker.prepare(torch.device("cpu"))
    ids = np.arange(1, log.n_users)
    lengths = np.diff(log.offsets)[1:-1]
    asked = []
    for rows in blocks(lengths, config.batch_users, config.batch_events):
        histories = reader.read(ids[rows], np.asarray(log.users.values[rows]))
        asked.append((reader.batch(histories, None), histories.seen))

    @torch.no_grad()
    def encode(at: int) -> None:
        bundle.model.user_vectors(asked[at][0])

    def rank(at: int) -> None:
        ranker(asked[at][0], config.k, seen=asked[at][1])

    seconds = []
    for work in (encode, rank):
        work(0)
        started = time.perf_counter()
        with one_thread():
            in_threads(work, range(len(asked)), config.threads)
        seconds.append(time.perf_counter() - started)
    return len(ids) / seconds[1], seconds[0] / seconds[1]


def made_log(n_items: int, n_users: int) -> EventLog:
    """Histories of popular and less popular items, one event an hour; the last user has all items."""
    random = np.random.default_rng(0)
    lengths = np.append(random.integers(LEAST, MOST + 1, n_users), n_items)
    drawn = (n_items ** random.random(lengths[:-1].sum())).astype(np.int64)  # density falls as 1 / id
    hour = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(n_users + 1), lengths)})
    events["item_id"] = np.append(drawn, np.arange(1, n_items + 1))
    events["timestamp"] = 1_000_000_000 + 3600 * hour
    return EventLog.from_frame(events, Schema(name="made up"))


if __name__ == "__main__":
    main()
