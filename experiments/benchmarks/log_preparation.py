"""Time and memory of preparing synthetic logs of 2 and of 20 million events, beside the usual way with pandas.

Each side runs in a process of its own, whose peak memory is read from the kernel. Both read the same Parquet files (six
row groups of text user ids, integer item ids and seconds each), refuse missing and negative values, number users and
items in the order of their raw ids, sort stably by user and time, drop repeated events and write `.npy` columns.

    python experiments/benchmarks/log_preparation.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _record import ratio, record

LIMIT_GIB = 3.0
PART = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=2_000_000, help="events of the comparison with pandas")
    parser.add_argument("--large", type=int, default=20_000_000, help="events of the large log, run once")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the comparison; the fastest counts")
    parser.add_argument("--folder", type=Path, help="where the logs are generated; a temporary folder when left out")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "LOG"), help="measure one side here and print it")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side[0], Path(arguments.side[1]))))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rates, peaks, ratios = {}, {}, {}
        for events, repeats in ((arguments.small, arguments.repeats), (arguments.large, 1)):
            log = generate(Path(folder) / str(events), events)
            runs = {side: [measure_apart(side, log) for _ in range(repeats)] for side in ("ours", "pandas")}
            best = {side: min(runs[side], key=lambda run: run["seconds"]) for side in runs}
            if best["ours"]["checksum"] != best["pandas"]["checksum"]:
                raise SystemExit("the two sides wrote different logs")
            rates[events] = [events / best[side]["seconds"] for side in ("ours", "pandas")]
            peaks[events] = [best[side]["peak_gib"] for side in ("ours", "pandas")]
            name = f"synthetic_{events / 10**6:g}m"
            ratios[f"{name}/pandas/speed"] = ratio(*rates[events], "events/s")
            ratios[f"{name}/pandas/peak_memory"] = ratio(*peaks[events], "GiB")
        ratios[f"{name}/limit/peak_memory"] = ratio(peaks[arguments.large][0], LIMIT_GIB, "GiB")
        ratios[f"{name}/smaller_log/speed"] = ratio(rates[arguments.large][0], rates[arguments.small][0], "events/s")
    print(json.dumps(ratios, indent=2))
    settings = {"small": arguments.small, "large": arguments.large, "repeats": arguments.repeats}
    print(f"written: {record('log_preparation', ratios, settings=settings).name}")


def generate(folder: Path, events: int) -> Path:
    """A log in Parquet files, in order of time; popularity of items and activity of users fall like a power law."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    users, items = max(events // 20, 10), max(events // 100, 10)
    for part, first in enumerate(range(0, events, PART)):
        n = min(PART, events - first)
        rng = np.random.default_rng([part, events])
        user = (users * rng.random(n) ** 2).astype(np.int64)
        columns = {
            "user_id": pa.array(np.char.add("u", np.char.zfill((user * 7919 % users).astype(str), 9))),
            "item_id": pa.array((items * rng.random(n) ** 3).astype(np.int64) * 31 + 5),
            "timestamp": pa.array(1_600_000_000 + first // 10 + np.sort(rng.integers(0, PART // 10, n))),
        }
        pq.write_table(pa.table(columns), folder / f"part-{part:04}.parquet", row_group_size=PART // 6)
    return folder


def measure_apart(side: str, log: Path) -> dict[str, float]:
    """One side in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--side", side, str(log)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, log: Path) -> dict[str, float]:
    """One side in this process: seconds without imports, peak memory, and a checksum of the result."""
    prepare_log = {"ours": with_recsys, "pandas": with_pandas}[side]()
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        start = time.perf_counter()
        prepare_log(log, Path(folder))
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        (item_file,), (time_file,) = (list(Path(folder).rglob(f"{name}.npy")) for name in ("item_id", "timestamp"))
        checksum = int(weighted_sum(item_file) + weighted_sum(time_file))
    return {"seconds": seconds, "peak_gib": peak, "checksum": checksum}


def weighted_sum(path: Path) -> int:
    """Changes when any value or its place does."""
    values = np.load(path, mmap_mode="r")
    return int((values.astype(np.int64) * (np.arange(len(values)) % 1009 + 1)).sum())


def with_recsys():
    """`recsys.features.prepare`."""
    from recsys.features.prepare import prepare
    from recsys.features.schema import Schema

    return lambda log, folder: prepare(Schema(name="synthetic"), log, cache_dir=folder)


def with_pandas():
    """Everything in memory, by pandas."""
    import pandas as pd

    def prepare_log(log: Path, folder: Path) -> None:
        frame = pd.read_parquet(log)
        if frame.isna().any(axis=None) or (frame["timestamp"] < 0).any():
            raise ValueError("bad rows")
        for column in ("user_id", "item_id"):
            codes, _ = pd.factorize(frame[column], sort=True)
            frame[column] = codes.astype("int32") + 1
        frame = frame.sort_values(["user_id", "timestamp"], kind="stable")
        frame = frame.drop_duplicates(["user_id", "item_id", "timestamp"])
        counts = frame.groupby("user_id").size()
        np.save(folder / "offsets.npy", np.concatenate([[0, 0], counts.cumsum()]))
        for column in ("item_id", "timestamp"):
            np.save(folder / f"{column}.npy", frame[column].to_numpy())

    return prepare_log


if __name__ == "__main__":
    main()
