from __future__ import annotations

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
        "rows of table item_id": "3",
    }
    assert EventLog.open(cached).n_events == 3


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
