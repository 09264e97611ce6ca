"""The data module finds its log, splits it, and takes back only a position of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.features.pair_batches import AllPairs
from recsys.features.splits import GlobalTime, UserHoldout
from recsys.training.data import DataSourceError, EventLogData

USERS, EVENTS = 30, 6


def write(folder: Path, seed: int = 0) -> dict[str, Any]:
    """A log with its schema; the arguments that name them."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(USERS), EVENTS)
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 20, len(user))})
    events["timestamp"] = 1_000_000 + 60 * random.permutation(len(events))
    events.to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text("name: toy\n")
    files = {"schema": str(folder / "schema.yaml"), "events": str(folder / "events.parquet")}
    return files | {"cache": str(folder / "cache"), "batch_size": 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "name the data once"),
        ({"dataset": "movielens_100k", "schema": "schema.yaml"}, "name the data once"),
        ({"dataset": "movielens_100k", "events": "events.parquet"}, "movielens_100k.*data.events"),
        ({"dataset": "movielens_100k", "items": "items.parquet"}, "movielens_100k.*data.items"),
        ({"schema": "schema.yaml"}, "schema.yaml.*needs `data.events`"),
    ],
)
def test_data_are_named_once(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(DataSourceError, match=message):
        EventLogData(**arguments)


def test_log_split_and_catalogue_belong_together(tmp_path: Path) -> None:
    rule = UserHoldout(0.2, 0.2, seed=4)
    data = EventLogData(**write(tmp_path), split=rule, max_length=3)
    assert data.log.n_users == USERS
    assert data.split.hash == rule(data.log).hash
    assert data.catalogue.n_items == data.log.n_items
    assert data.catalogue.max_length == 3
    trained = np.concatenate(
        [data.log.item_id[a:b] for a, b in zip(data.split.train_start, data.split.train_end, strict=True)]
    )
    assert data.catalogue.counts.tolist() == np.bincount(trained, minlength=data.log.n_items + 1).tolist()
    assert len(data.train_dataloader()) == -(-data.split.facts["train_users"] // 8)
    assert max(int(batch.lengths.max()) for batch in data.train_dataloader()) == 3


def test_the_default_split_is_by_time(tmp_path: Path) -> None:
    data = EventLogData(**write(tmp_path))
    assert data.split.hash == GlobalTime()(data.log).hash


def test_a_position_is_taken_back(tmp_path: Path) -> None:
    arguments = write(tmp_path)
    data = EventLogData(**arguments)
    iterator = iter(data.train_dataloader())
    next(iterator)
    state = data.state_dict()
    rest = [batch.user_id.tolist() for batch in iterator]
    other = EventLogData(**arguments)
    other.load_state_dict(state)
    assert [batch.user_id.tolist() for batch in other.train_dataloader()] == rest


def test_a_position_in_other_data_is_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    ours, theirs = (write(folder, seed) for seed, folder in enumerate(folders))
    state = EventLogData(**ours).state_dict()
    for stranger in (EventLogData(**theirs), EventLogData(**ours, split=UserHoldout())):
        with pytest.raises(DataSourceError, match="another log or split"):
            stranger.load_state_dict(state)
        assert stranger.batches.epoch == 0
    EventLogData(**ours, split=GlobalTime()).load_state_dict(state)  # the same split, made anew


def test_pairs_are_chosen_by_their_batches(tmp_path: Path) -> None:
    arguments = write(tmp_path)
    data = EventLogData(**arguments, batches=AllPairs())
    assert data.train_dataloader() is data.pair_batches and data.batches.state_dict()["seed"] == data.seed
    assert data.catalogue.interactions is not None and EventLogData(**arguments).catalogue.interactions is None
    iterator = iter(data.train_dataloader())
    next(iterator)
    state = data.state_dict()
    other = EventLogData(**arguments, batches=AllPairs(), seed=7)
    other.load_state_dict(state)
    assert [b.users.tolist() for b in other.train_dataloader()] == [b.users.tolist() for b in iterator]
    with pytest.raises(DataSourceError, match=r"leave out `data\.stride`"):
        EventLogData(**arguments, batches=AllPairs(), stride=2)


def test_batches_of_another_kind_than_the_position_are_refused(tmp_path: Path) -> None:
    arguments = write(tmp_path)
    state = EventLogData(**arguments).state_dict()
    with pytest.raises(DataSourceError, match=r"on TrainingBatches, and the job on AllPairs: see `data\.batches`"):
        EventLogData(**arguments, batches=AllPairs()).load_state_dict(state)


def test_batches_of_pairs_that_do_not_fit_say_so(tmp_path: Path) -> None:
    data = EventLogData(**write(tmp_path) | {"batch_size": 0}, batches=AllPairs())
    with pytest.raises(DataSourceError, match=r"`data\.batches`: batch_size must be positive, not 0"):
        data.train_dataloader()
