from __future__ import annotations

import itertools
import json
from pathlib import Path

import large_log
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from _large_events import INTERESTS, LEAST, MOST, Shape, World
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = Shape(users=1000, items=2500, categories=25, seed=3)


def within(share: float, expected: float, n: int) -> bool:
    """At most four standard errors apart."""
    return abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)


def frame(world: World, begin: int, end: int) -> pd.DataFrame:
    return pd.DataFrame(world.events(begin, end)._asdict())


# ---- events


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, SMALL.users), max_size=5))
def test_the_log_is_the_same_however_many_users_are_drawn_at_a_time(cuts: list[int]) -> None:
    world, at = World(SMALL), [0, *sorted(cuts), SMALL.users]
    parts = [frame(world, begin, end) for begin, end in itertools.pairwise(at)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frame(world, 0, SMALL.users))


def test_seeds_are_other_logs() -> None:
    first, same, other = (frame(World(Shape(100, 300, 5, seed=seed)), 0, 100) for seed in (1, 1, 2))
    assert first.equals(same) and not first[:100].equals(other[:100])


@pytest.mark.parametrize("shape", [SMALL, Shape(users=900, items=100, categories=7), Shape(1, 4, 2)])
def test_every_item_occurs_and_nobody_takes_one_twice(shape: Shape) -> None:
    log = frame(World(shape), 0, shape.users)
    assert set(log["item"]) == set(range(1, shape.items + 1))
    assert set(log["user"]) == set(range(1, shape.users + 1))
    assert not log.duplicated(["user", "item"]).any()
    assert log.equals(log.sort_values(["user", "timestamp"], kind="stable"))


def test_users_have_as_many_events_as_the_shape_says() -> None:
    shape = Shape(users=40_000, items=40_000, categories=4, drawn=6.0)
    taken = World(shape).sequences(0, shape.users).taken
    beside = taken.sum(1) - 1  # an item of its own each
    assert (beside.min(), beside.max()) == (LEAST, MOST)
    geometric = 0.8 ** np.arange(200) * 0.2
    expected = (geometric * np.minimum(LEAST + np.arange(200), MOST)).sum()
    assert abs(beside.mean() - expected) < 4 * beside.std() / np.sqrt(shape.users)
    assert (taken == (np.arange(taken.shape[1]) < taken.sum(1)[:, None])).all()


def test_categories_are_as_large_as_a_power_law_says() -> None:
    sizes = np.diff(World(Shape(users=10, items=1_000_000, categories=2000)).first)
    assert sizes.sum() == 1_000_000 and (np.diff(sizes) <= 0).all()
    slope = np.polyfit(np.log(np.arange(1, 2001)), np.log(sizes), 1)[0]
    assert slope == pytest.approx(-0.8, abs=0.01)


def test_the_side_table_has_the_categories_of_the_places() -> None:
    world = World(SMALL)
    of = world.categories()
    for category in range(SMALL.categories):
        items = world.item_at[world.first[category] : world.first[category + 1]]
        assert (of[items - 1] == category).all()
    assert (np.sort(world.item_at) == np.arange(1, SMALL.items + 1)).all()
    places = np.arange(SMALL.items)
    assert (world.category_of(places) == of[world.item_at - 1]).all()


@pytest.mark.parametrize("exponent", [0.7, 1.1, 1.5])
def test_popularity_in_a_category_is_a_power_law(exponent: float) -> None:
    shape = Shape(users=60_000, items=200, categories=1, item_exponent=exponent)
    drawn = World(shape).sequences(0, shape.users)
    counts = np.bincount(drawn.place[drawn.taken], minlength=200) - 1  # everyone of 200 users has an item of its own
    edges = np.arange(1, 202.0) ** (1 - exponent)
    share = np.diff(edges) / (edges[-1] - edges[0])
    errors = (counts - counts.sum() * share) / np.sqrt(counts.sum() * share)
    assert np.abs(errors).max() < 4.5 and 0.6 < np.mean(errors**2) < 1.5
    ranks = np.arange(1, 201)
    slope = np.polyfit(np.log(ranks[9:] + 0.5), np.log(counts[9:]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


def test_the_next_event_depends_on_the_category_of_the_last() -> None:
    shape = Shape(users=20_000, items=20_000, categories=1000, category_exponent=0.0, stays=0.7)
    world = World(shape)
    drawn = world.sequences(0, shape.users)
    category = world.category_of(drawn.place)
    follows = drawn.taken[:, 2:]
    same = (category[:, 2:] == category[:, 1:-1])[follows]
    assert within(same.mean(), 0.7 + 0.3 / INTERESTS, len(same))
    home = category[:, :1]  # the first event is there
    away = follows & (category[:, 1:-1] != home)
    assert within((category[:, 2:] == home)[away].mean(), 0.3 / INTERESTS, int(away.sum()))
    kinds = [len(set(row[there])) for row, there in zip(category, drawn.taken, strict=True)]
    assert max(kinds) == INTERESTS


def test_homes_are_as_frequent_as_categories_are_large() -> None:
    shape = Shape(users=5000, items=50_000, categories=10)
    world = World(shape)
    drawn = world.sequences(0, shape.users)
    homes = np.bincount(world.category_of(drawn.place[:, 0]), minlength=10)
    # Home is where a user's ten places begin, and they begin at every tenth place.
    expected = np.bincount(world.category_of(np.arange(0, 50_000, 10)), minlength=10)
    assert np.abs(homes - expected).max() <= 1  # the first item may lie across the edge of a category


@pytest.mark.parametrize("sizes", [(0, 5, 1), (5, 5, 6), (5, 5, 0)])
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one user"):
        Shape(*sizes)


# ---- the command


def run(out: Path, *more: str) -> int:
    return large_log.main(["--users", "300", "--items", "700", "--categories", "7", "--out", str(out), *more])


def test_a_log_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    folder = tmp_path / "large_synthetic"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"events.parquet", "items.parquet", "README.md", "manifest.json"}
    events, items = (pd.read_parquet(folder / f"{name}.parquet") for name in ("events", "items"))
    assert items["item_id"].tolist() == list(range(1, 701)) and set(items["category"]) == set(range(7))
    log = events.merge(items, on="item_id")
    assert len(log) == len(events) and list(events.columns) == ["user_id", "item_id", "timestamp"]

    manifest = json.loads((folder / "manifest.json").read_text())
    popularity = events["item_id"].value_counts()
    pairs = log.sort_values(["user_id", "timestamp"], kind="stable").groupby("user_id")["category"]
    follows = pairs.shift().dropna()
    assert manifest["counts"] == {
        "users": 300,
        "items": 700,
        "events": len(events),
        "events_of_the_most_popular_item": popularity.max(),
        "items_with_one_event": (popularity == 1).sum(),
        "next_event_in_the_same_category": pytest.approx((follows == log["category"][follows.index]).mean()),
    }
    readme = (folder / "README.md").read_text()
    assert "SYNTHETIC" in readme and f"- events: {len(events):,}" in readme

    written = (folder / "events.parquet").stat().st_mtime_ns
    assert run(tmp_path) == 0 and (folder / "events.parquet").stat().st_mtime_ns == written
    assert run(tmp_path, "--seed", "1") == 1
    assert "made otherwise" in capsys.readouterr().err
    assert run(tmp_path, "--seed", "1", "--again") == 0
    assert not pd.read_parquet(folder / "events.parquet").equals(events)


def test_files_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path / "whole") == 0
    monkeypatch.setattr(large_log, "USERS_AT_A_TIME", 70)
    monkeypatch.setattr(large_log, "ITEMS_AT_A_TIME", 300)
    assert run(tmp_path / "parts") == 0
    for name, groups in (("events", 5), ("items", 3)):
        whole, parts = (tmp_path / out / "large_synthetic" / f"{name}.parquet" for out in ("whole", "parts"))
        assert pq.ParquetFile(parts).num_row_groups == groups
        assert pd.read_parquet(parts).equals(pd.read_parquet(whole))


def test_a_run_that_dies_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bad_sizes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--categories", "701") == 1
    assert "as many items as categories" in capsys.readouterr().err
