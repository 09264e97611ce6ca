from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from recsys.cli.prepare import main
from recsys.features.event_log import EventLog
from recsys.features.tables import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"user": ["a", "b", "b", "b"], "item_id": [1, 2, 2, 1], "timestamp": [1, 5, 5, 6]})
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "shop.yaml").write_text("{name: shop, events: {user_id: user}}")
    return tmp_path


def test_prints_the_counts_and_the_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--schema", f"{folder}/shop.yaml", "--events", f"{folder}/log.parquet", "--cache", f"{folder}/cache"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    (cached,) = (folder / "cache").iterdir()
    assert str(cached) in out
    rows = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in out.splitlines() if "│" in line}
    assert rows == {
        "events read": "4",
        "events kept": "3",
        "events merged": "1",
        "users": "2",
        "items": "2",
        "item_id": "2 values",
        "vocabulary, unknown dropped": "3 rows",
        "": "0.00 MiB",
    }
    assert EventLog.open(cached).n_events == 3


def test_the_report_of_the_tables_is_printed_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Item 1 has two of the four events of the source and item 2 the others; three users have 3, 1 and 1."""
    frame = pd.DataFrame({"user": ["a", "b", "b", "b", "c"], "item_id": [1, 2, 2, 1, 1], "timestamp": range(5)})
    frame.to_parquet(folder / "log.parquet")
    tables = "user_table: {min_count: 2}, item_table: {encoding: hash, buckets: 2, dim: 131072}"
    (folder / "shop.yaml").write_text("{name: shop, events: {user_id: user}, " + tables + "}")
    arguments = ["--schema", f"{folder}/shop.yaml", "--events", f"{folder}/log.parquet", "--cache", f"{folder}/cache"]
    assert main([*arguments, "--width", "8"]) == 0
    (report,) = (folder / "cache").glob("*/tables.json")
    users = json.loads(report.read_text())[1]
    assert users == {
        "table": "user_id",
        "policy": "vocabulary of values seen 2 times or more, unknown dropped",
        "dim": None,
        "values": 3,
        "rows": 2,
        "collision_rate": 0.0,
        "dropped": 2 / 5,
        "bucketed": 0.0,
        "colliding": 0.0,
    }
    out = capsys.readouterr().out
    for words in ("tables, at width 8", "hash of 2", "1.50 MiB", "100.0% hashed", "40.0% dropped", "3 values"):
        assert words in out
    written = report.stat().st_mtime_ns
    assert main(arguments) == 0 and report.stat().st_mtime_ns == written
    assert sorted(path.name for path in report.parent.glob("*tables*")) == ["tables.json"]


def test_a_log_of_an_older_version_says_what_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--schema", f"{folder}/shop.yaml", "--events", f"{folder}/log.parquet", "--cache", f"{folder}/cache"]
    assert main(arguments) == 0
    (manifest,) = (folder / "cache").glob("*/manifest.json")
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "usage"}))
    capsys.readouterr()
    assert main(arguments) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "was not counted by the version that prepared this log; delete its folder" in out and "MiB" not in out


def test_bad_data_raises_for_the_command_to_report(folder: Path) -> None:
    (folder / "shop.yaml").write_text("{name: shop}")
    with pytest.raises(DataError, match="did you mean `user`"):
        main(["--schema", f"{folder}/shop.yaml", "--events", f"{folder}/log.parquet", "--cache", f"{folder}/cache"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "either --dataset, or --schema"),
        (["--schema", "s.yaml"], "--schema needs --events"),
        (["--dataset", "movielens_100k", "--items", "x"], "brings its own tables"),
    ],
)
def test_wrong_usage(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
