"""Latency and requests per second of a logged model, in process and over HTTP, by requests in a call.

An untrained network at the size of the recipes is saved as an MLflow model and loaded by `mlflow.pyfunc.load_model`.
Calls have the whole histories of test users, one call after the other by one caller; `direct` leaves out MLflow and its
check of the signature, `process` calls the loaded model, `http` asks `mlflow models serve` with one worker over a
connection that stays open. The last two thus show what MLflow and HTTP cost.

    python experiments/benchmarks/serving_latency.py
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from _record import ratio, record

from recsys.cli.allocator import keep_freed_memory
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.network import SequenceNetwork
from recsys.models.synergen import SynerGen
from recsys.models.two_tower import TwoTower
from recsys.tracking.bundle import Bundle
from recsys.tracking.bundle_server import BundleServer, ServingParams
from recsys.tracking.logged_model import save_model
from recsys.tracking.mlflow_store import quiet
from recsys.training.data import EventLogData

BATCHES = (1, 32, 256)
WAYS = ("direct", "process", "http")
NETWORKS: dict[str, Callable[[Catalogue], SequenceNetwork]] = {
    "synergen": partial(SynerGen, width=128),
    "two_tower": TwoTower,
}
START_SECONDS = 120

Answer = Callable[[pd.DataFrame], Any]


class Latency(NamedTuple):
    """Of one call: median and 99th percentile in milliseconds, and requests per second of all calls."""

    p50_ms: float
    p99_ms: float
    requests_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon_beauty")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=10, help="calls")
    parser.add_argument("--calls", type=int, default=300, help="timed calls of each size")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    data = EventLogData(given.dataset, split=LeaveLastOut())
    ratios: dict[str, dict[str, float | str]] = {}
    facts: list[dict[str, Any]] = []
    for network in given.networks:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            model = NETWORKS[network](data.catalogue).eval()
            bundle = Bundle.of(model, data.log, data.split.hash, data.max_length)
            found = measure(bundle, data.split, Path(folder), given)
        ratios |= compare(network, found)
        facts += [{"network": network, "way": w, "batch": b} | f._asdict() for (w, b), f in found.items()]
    path = record("serving_latency", ratios, ("mlflow",), settings=vars(given), facts=facts)
    print(f"written: {path.name}")


def measure(bundle: Bundle, split: Split, folder: Path, given: argparse.Namespace) -> dict[tuple[str, int], Latency]:
    """Every way with every size of a call."""
    bundle.save(folder / "model")
    save_model(folder / "model", folder / "logged")
    requests = requests_of(split, bundle, max(BATCHES) + given.calls)
    params = {"k": given.k}
    quiet()
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(folder / "logged"))
    server = BundleServer(bundle, "direct")
    found = {}

    def take(way: str, answer: Answer) -> None:
        for batch in BATCHES:
            found[way, batch] = timed(answer, requests, batch, given.warm_up, given.calls)
            print(way, batch, found[way, batch], flush=True)

    take("direct", lambda frame: server.answer(frame, ServingParams(**params)))
    take("process", lambda frame: loaded.predict(frame, params))
    with served(folder / "logged", given.threads) as post:  # which closes a connection that says nothing for seconds
        take("http", lambda frame: post(frame, params))
    return found


def requests_of(split: Split, bundle: Bundle, n: int) -> pd.DataFrame:
    """Whole histories of test users in the order of the log, from the first again where there are too few."""
    log: EventLog = split.log
    rows = np.resize(np.arange(len(split.test)), n)
    starts, ends = split.test.history_start[rows], split.test.history_end[rows]
    items = bundle.items.values.astype(str).to_numpy(dtype=object)
    return pd.DataFrame(
        {
            "user_id": [f"user {row}" for row in rows],
            "history": [items[log.item_id[start:end] - 1].tolist() for start, end in zip(starts, ends, strict=True)],
            "history_times": [log.timestamp[start:end].tolist() for start, end in zip(starts, ends, strict=True)],
        }
    )


def timed(answer: Answer, requests: pd.DataFrame, batch: int, warm_up: int, calls: int) -> Latency:
    """Calls with `batch` requests each, none of which asks for the same users as the one before."""
    seconds = []
    for call in range(-warm_up, calls):
        frame = requests.iloc[np.arange(call * batch, (call + 1) * batch) % len(requests)].reset_index(drop=True)
        started = time.perf_counter()
        answer(frame)
        if call >= 0:
            seconds.append(time.perf_counter() - started)
    p50, p99 = 1000 * np.quantile(seconds, [0.5, 0.99])
    return Latency(round(float(p50), 3), round(float(p99), 3), round(batch * calls / sum(seconds), 1))


@contextmanager
def served(path: Path, threads: int) -> Iterator[Callable[[pd.DataFrame, dict[str, Any]], Any]]:
    """Asks a process of `mlflow models serve`, which ends with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "models", "serve", "-m", str(path), "--env-manager", "local", "--workers", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    process = subprocess.Popen(
        [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        wait_for(connection, process)

        def post(frame: pd.DataFrame, params: dict[str, Any]) -> Any:
            content = {"dataframe_split": frame.to_dict(orient="split", index=False), "params": params}
            connection.request("POST", "/invocations", json.dumps(content), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
            if answer.status != 200:
                raise RuntimeError(body["message"])
            return body["predictions"]

        yield post
    finally:
        connection.close()
        os.killpg(process.pid, 15)
        process.wait(30)


def wait_for(connection: http.client.HTTPConnection, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            connection.request("GET", "/ping")
            connection.getresponse().read()
            return
        except OSError:
            connection.close()
            time.sleep(0.2)
    raise RuntimeError("`mlflow models serve` has not started")


def compare(network: str, found: dict[tuple[str, int], Latency]) -> dict[str, dict[str, float | str]]:
    """What MLflow and HTTP add to a call, and what larger calls bring."""
    ratios = {}
    for (way, batch), latency in found.items():
        if way != WAYS[0]:
            before = found[WAYS[WAYS.index(way) - 1], batch]
            ratios[f"{network}/{way}/batch_{batch}/p50"] = ratio(latency.p50_ms, before.p50_ms, "ms per call")
        if batch != BATCHES[0]:
            single = found[way, BATCHES[0]]
            name = f"{network}/{way}/batch_{batch}/throughput"
            ratios[name] = ratio(latency.requests_per_s, single.requests_per_s, "requests/s")
    return ratios


if __name__ == "__main__":
    main()
