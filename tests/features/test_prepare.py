from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.features import event_stream
from recsys.features.event_log import EventLog
from recsys.features.log_files import EventLogError
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.tables import DataError

SCHEMA = Schema.parse(
    {
        "name": "shop",
        "events": {"order": "rank"},
        "features": [{"name": "brand", "column": "brand", "type": "categorical"}],
    }
)
ITEMS = pd.DataFrame({"item_id": range(50), "brand": [f"b{i % 7}" for i in range(50)]})


def events(n: int = 5000) -> pd.DataFrame:
    """Many events share user and second, so that `rank` and the row decide."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "user_id": rng.integers(0, 90, n),
            "item_id": rng.integers(0, 50, n),
            "timestamp": rng.integers(0, 20, n),
            "rank": rng.integers(0, 3, n),
        }
    )


def same(one: EventLog, two: EventLog) -> bool:
    columns = one.columns.keys() == two.columns.keys() and all(
        np.array_equal(one.columns[name], two.columns[name]) for name in one.columns
    )
    return columns and np.array_equal(one.offsets, two.offsets) and one.items.values.equals(two.items.values)


def in_files(frame: pd.DataFrame, folder: Path, parts: int, kind: str = "parquet") -> Path:
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), parts)):
        part = frame.iloc[rows]
        if kind == "parquet":
            part.to_parquet(folder / f"part-{number:03}.parquet", row_group_size=300)
        else:
            part.to_csv(folder / f"part-{number:03}.{kind}", index=False)
    return folder


def test_every_kind_of_source_gives_the_same_log(tmp_path: Path) -> None:
    frame = events()
    expected = EventLog.from_frame(frame, SCHEMA, ITEMS)
    folder = in_files(frame, tmp_path / "parts", 4)
    one = in_files(frame, tmp_path / "one", 1) / "part-000.parquet"
    text = in_files(frame, tmp_path / "text", 3, "csv")
    zipped = in_files(frame, tmp_path / "zipped", 1, "csv.gz")
    sources = [one, folder, sorted(folder.iterdir()), str(folder / "*.parquet"), text, zipped, frame]
    for source in sources:
        log = prepare(SCHEMA, source, ITEMS, cache_dir=tmp_path / "cache")
        assert same(log, expected), source
        assert log.facts == expected.facts
        assert isinstance(log.item_id, np.memmap)
    assert expected.facts["events_merged"] > 0


def test_small_chunks_and_little_memory_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = events(60_000)
    expected = EventLog.from_frame(frame, SCHEMA, ITEMS)
    monkeypatch.setattr(event_stream, "_CHUNK", 1000)
    calls: list[tuple[str, int, int]] = []
    log = prepare(
        SCHEMA,
        frame,
        ITEMS,
        cache_dir=tmp_path,
        memory_limit="64MB",
        progress=lambda *call: calls.append(call),
    )
    assert same(log, expected)
    assert len(calls) > 1 and calls[-1][1:] == (log.n_events, 60_000)


def test_the_cache_is_named_by_content(tmp_path: Path) -> None:
    frame, cache = events(200), tmp_path / "cache"
    one = in_files(frame, tmp_path / "one", 1) / "part-000.parquet"
    first = prepare(SCHEMA, one, ITEMS, cache_dir=cache)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    copy = tmp_path / "renamed.parquet"
    copy.write_bytes(one.read_bytes())
    assert prepare(SCHEMA, copy, ITEMS, cache_dir=cache).fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == written, "nothing was written again"
    changed = frame.copy()
    changed.loc[3, "item_id"] += 1
    changed.to_parquet(copy)
    other_schema = SCHEMA.model_copy(update={"duplicates": "keep"})
    fingerprints = {
        first.fingerprint,
        prepare(SCHEMA, copy, ITEMS, cache_dir=cache).fingerprint,
        prepare(other_schema, one, ITEMS, cache_dir=cache).fingerprint,
        prepare(SCHEMA, one, ITEMS.iloc[:-1], cache_dir=cache).fingerprint,
        prepare(SCHEMA, frame, ITEMS, cache_dir=cache).fingerprint,
    }
    assert len(fingerprints) == 5 and {path.name for path in cache.iterdir()} == fingerprints
    lists = ITEMS.assign(tags=[[1, 2]] * 50)
    names = {EventLog.from_frame(frame, SCHEMA, table).fingerprint for table in (lists, lists.copy(), ITEMS)}
    assert len(names) == 2


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="negative"):
        prepare(SCHEMA, events(100).assign(timestamp=-1), ITEMS, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    log = prepare(SCHEMA, events(50), ITEMS, cache_dir=tmp_path)
    (tmp_path / log.fingerprint / "manifest.json").unlink()
    with pytest.raises(EventLogError, match=f"{log.fingerprint}: cannot be written"):
        prepare(SCHEMA, events(50), ITEMS, cache_dir=tmp_path)


def script(body: str) -> str:
    return textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from recsys.features.prepare import prepare
        from recsys.features.schema import Schema
        folder = Path(sys.argv[1])
        schema = Schema.parse({"name": "shop", "events": {"order": "rank"}})
        """
    ) + textwrap.dedent(body)


def test_a_killed_run_leaves_no_half_log(tmp_path: Path) -> None:
    events().to_parquet(tmp_path / "log.parquet")
    killed = subprocess.run(
        [
            sys.executable,
            "-c",
            script(
                """
                def kill(stage, done, total):
                    if done:
                        os.kill(os.getpid(), signal.SIGKILL)
                prepare(schema, folder / "log.parquet", cache_dir=folder / "cache", progress=kill)
                """
            ),
            str(tmp_path),
        ]
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "cache").glob(".writing-*")
    assert (left / "columns").exists()
    with pytest.raises(EventLogError):
        EventLog.open(left)
    schema = Schema.parse({"name": "shop", "events": {"order": "rank"}})
    log = prepare(schema, tmp_path / "log.parquet", cache_dir=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [log.fingerprint]
    assert same(log, EventLog.from_frame(events(), schema))


@pytest.mark.parametrize("locks", [True, False], ids=["one writes", "no locks: both write"])
def test_runs_side_by_side_agree(tmp_path: Path, locks: bool) -> None:
    """A process that writes waits until the other one has begun; where files cannot be locked, until it writes too."""
    events().to_parquet(tmp_path / "log.parquet")
    body = script(
        """
        import fcntl, time
        locks = sys.argv[2] == "True"
        def refuse(*_):
            raise OSError("no locks here")
        if not locks:
            fcntl.flock = refuse
        def meet(stage, done, total):
            (folder / f"{os.getpid()}.writes").touch()
            deadline = time.time() + 60
            while len(list(folder.glob("*.begun" if locks else "*.writes"))) < 2 and time.time() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
        (folder / f"{os.getpid()}.begun").touch()
        log = prepare(schema, folder / "log.parquet", cache_dir=folder / "cache", progress=meet)
        print(log.fingerprint, log.n_events, int(log.item_id.sum()))
        """
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", body, str(tmp_path), str(locks)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert results[0] == results[1] != ""
    assert len(list(tmp_path.glob("*.writes"))) == (1 if locks else 2)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [results[0].split()[0]]


def test_times_without_a_zone_are_utc_wherever_the_machine_is(tmp_path: Path) -> None:
    pd.DataFrame({"user_id": 1, "item_id": 2, "timestamp": ["2024-01-01T00:00:00"], "rank": 0}).to_csv(
        tmp_path / "log.csv", index=False
    )
    body = script("print(prepare(schema, folder / 'log.csv', cache_dir=folder / 'cache').timestamp[0])")
    environment = os.environ | {"TZ": "Asia/Tokyo"}
    run = subprocess.run([sys.executable, "-c", body, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert run.stdout.strip() == "1704067200", run.stderr


def test_a_running_process_keeps_its_files(tmp_path: Path) -> None:
    """Only what dead processes left is removed."""
    mine = tmp_path / f".writing-{os.uname().nodename}-{os.getpid()}-x"
    mine.mkdir()
    prepare(SCHEMA, events(50), ITEMS, cache_dir=tmp_path)
    assert mine.exists()
