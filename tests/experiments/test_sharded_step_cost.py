from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import _sharded_worker
import pytest
from sharded_step_cost import Case, compare, faster, measure


def facts(seconds: float, held: float = 1.0, peak: float = 1.0) -> dict[str, float]:
    return {"seconds": seconds, "held_mib": held, "peak_rss_mib": peak}


def test_ratios_say_what_rows_ranks_and_dense_gradients_cost() -> None:
    found = {
        Case(10, 1): facts(2.0, held=8, peak=90),
        Case(10, 2): facts(3.0, held=4, peak=60),
        Case(20, 1): facts(1.0, held=16, peak=100),
        Case(20, 2): facts(6.0, held=8, peak=80),
        Case(10, 1, sharded=False): facts(5.0, held=32),
        Case(30, 1, sharded=False): facts(9.0),
    }
    ratios = {name: entry["value"] for name, entry in compare(found).items()}
    assert ratios == {
        "ranks_1/slowest_to_fastest": 2.0,
        "ranks_1/rows_20": 0.5,
        "ranks_2/slowest_to_fastest": 2.0,
        "ranks_2/rows_20": 2.0,
        "memory/rows_10": 2.0,
        "peak/rows_10": 1.5,
        "memory/rows_20": 2.0,
        "peak/rows_20": 1.25,
        "dense/rows_10": 2.5,
        "dense_memory/rows_10": 4.0,
    }


def test_the_fastest_repeat_counts() -> None:
    first, second = facts(2.0), facts(1.5)
    assert faster(None, first) is first and faster(first, second) is second and faster(second, first) is second


@pytest.mark.slow
@pytest.mark.distributed
def test_each_of_two_ranks_holds_half_of_table_and_state() -> None:
    given = argparse.Namespace(width=16, batch=4, length=3, warm_up=1, steps=1, dense_steps=1, threads=2)
    assert measure(Case(100, 2), given)["held_mib"] * 2**20 == 50 * (16 + 1) * 4


def test_dense_gradients_hold_four_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _sharded_worker.Settings(100, 1, sharded=False, width=16, batch=4, length=3, warm_up=1, steps=1)
    task, answer = tmp_path / "task.json", tmp_path / "answer.json"
    task.write_text(json.dumps(asdict(settings)))
    monkeypatch.setattr("sys.argv", ["_sharded_worker.py", str(task), str(answer)])
    _sharded_worker.main()
    counter = 4  # bytes, of Adam's steps
    assert json.loads(answer.read_text())["held_mib"] * 2**20 == 4 * 100 * 16 * 4 + counter
