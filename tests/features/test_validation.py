from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.features import encoding
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.tables import DataError

PLAIN = Schema(name="toy")


def frame(**changes: object) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [1, 2, 3], "item_id": [4, 5, 6], "timestamp": [10, 20, 30]} | changes)


def message(events: object, schema: Schema = PLAIN, **side: object) -> str:
    with pytest.raises(DataError) as caught:
        EventLog.from_frame(events, schema, **side)  # type: ignore[arg-type]
    return str(caught.value)


def with_column(name: str) -> Schema:
    return Schema.parse({"name": "toy", "events": {name: name}})


BIG = 2**63
CASES = {
    "missing column": (frame().rename(columns={"item_id": "itemid"}), "no column `item_id`; did you mean `itemid`"),
    "null user": (frame(user_id=["a", None, "c"]), "column `user_id`, row 1 .*missing"),
    "null item": (frame(item_id=pd.array([4, None, None], dtype="Int64")), r"`item_id`, row 1 .*\(2 such rows\)"),
    "float ids": (frame(user_id=[1.0, np.nan, 2.0]), "`user_id` has type DOUBLE; ids must be integers or strings"),
    "boolean ids": (frame(item_id=[True, False, True]), "`item_id` has type BOOLEAN"),
    "mixed ids": (frame(item_id=[1, "a", 2]), "give every column one type"),
    "wide id": (frame(user_id=np.array([1, BIG, 2], dtype=np.uint64)), f"row 1 .*{BIG} does not fit 64 bits"),
    "null time": (frame(timestamp=[1, np.nan, 3]), "`timestamp`, row 1 .*missing"),
    "infinite time": (frame(timestamp=[1, 2, np.inf]), "row 2 .*`inf` is not a time"),
    "text time": (frame(timestamp=["2020-01-01", "2020-01-02", "soon"]), "row 2 .*`soon` is not a time"),
    "list time": (frame(timestamp=[[1], [2], [3]]), "times must be numbers, dates or ISO"),
    "negative time": (frame(timestamp=[5, -7, 3]), "row 1 .*-7 is negative"),
    "negative date": (frame(timestamp=pd.to_datetime(["1960-01-01"] * 3)), r"row 0 .*1960.* is negative \(3 such"),
    "milliseconds": (frame(timestamp=[10, 1_600_000_000_000, 3]), "row 1 .*milliseconds.*timestamp_unit: ms"),
    "microseconds": (frame(timestamp=[10, 20, 1_600_000_000_000_000]), "row 2 .*microseconds.*timestamp_unit: us"),
    "nanoseconds": (frame(timestamp=[16 * 10**17, 20, 3]), "row 0 .*nanoseconds.*timestamp_unit: ns"),
    "empty": (frame().iloc[:0], "the log is empty"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(case: str) -> None:
    events, expected = CASES[case]
    text = message(events)
    assert re.search(expected, text), text
    assert text.startswith("events frame:")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("weight", [1, np.nan, 2], "row 1 .*missing"),
        ("weight", [1, 2, np.inf], "row 2 .*`inf` is not a finite number"),
        ("weight", [1, 1e300, 2], "row 1 .*not a finite number"),
        ("propensity", [0.5, 0.0, 1.0], "row 1 .*0.0 is no propensity"),
        ("propensity", [0.5, 1.0, 1.1], "row 2 .*1.1 is no propensity"),
        ("position", [0, -1, 2], "row 1 .*-1 is no position"),
        ("position", [0, 1, 2.5], "row 2 .*2.5 is no position"),
        ("position", [0, 1, 2**31], "row 2 .*is no position"),
        ("order", [0, None, 2], "row 1 .*missing"),
    ],
)
def test_optional_columns_are_checked(name: str, values: list, expected: str) -> None:
    text = message(frame(**{name: values}), with_column(name))
    assert re.search(f"column `{name}`, {expected}", text), text


def test_a_coarser_unit_is_told_from_the_schema_s_own() -> None:
    schema = Schema.parse({"name": "toy", "events": {"timestamp_unit": "ms"}})
    assert "looks like microseconds" in message(frame(timestamp=[1, 2, 1_600_000_000_000_000]), schema)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_units_and_dates_mean_the_same_second(unit: str) -> None:
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    moments = pd.Series(pd.to_datetime(["2001-02-03T04:05:06", "2020-01-01T00:00:00", "1999-12-31T23:59:59"]))
    seconds = [981173106, 1577836800, 946684799]
    zones = moments.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    variants: dict[str, object] = {
        "number": [value * factor + (factor - 1) for value in seconds],
        "datetime": moments.astype(f"datetime64[{unit}]"),
        "zoned": zones,
        "iso": moments.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "iso with zone": [moment.isoformat() for moment in zones],
        "text": [str(value * factor) for value in seconds],
        "text with fraction": [f"{value * factor}.0" for value in seconds],
    }
    schema = Schema.parse({"name": "toy", "events": {"timestamp_unit": unit}})
    for name, values in variants.items():
        assert EventLog.from_frame(frame(timestamp=values), schema).timestamp.tolist() == seconds, name


def test_the_file_and_its_row_are_named(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "a.parquet")
    frame(timestamp=[1, 2, -3]).to_parquet(tmp_path / "b.parquet")
    text = message(tmp_path)
    assert text.startswith(f"{tmp_path / 'b.parquet'}: column `timestamp`, row 2 (from 0): -3 is negative")


def test_csv_errors_name_the_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n1,2,3\n1,2,tomorrow\n")
    assert f"{path}: column `timestamp`, row 1 (from 0): `tomorrow` is not a time" in message(path)


def test_too_many_ids_for_int32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_MAX_IDS", 2)
    assert "3 distinct ids, but a log holds at most 2" in message(frame())


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "nothing.parquet")
    assert "holds no .parquet or .csv" in message(tmp_path)
    (tmp_path / "broken.parquet").write_text("not parquet")
    assert "broken.parquet: cannot be read" in message(tmp_path)
    frame().to_csv(tmp_path / "other.csv")
    assert "all Parquet or all CSV" in message(tmp_path)


def test_duplicates_are_merged_and_counted() -> None:
    log = EventLog.from_frame(pd.concat([frame(), frame().iloc[:2]]), PLAIN)
    assert log.n_events == 3
    assert log.facts["events_merged"] == 2 and log.facts["events_read"] == 5
