"""Small saved models with their logs, ready for jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from recsys.candidates.config import JobConfig
from recsys.features.event_log import EventLog
from recsys.tracking.bundle import Bundle
from recsys.tracking.history import History
from tests.tracking.served import MODELS, served


class Saved(NamedTuple):
    """A model and its log, in memory and on the disk."""

    bundle: Bundle
    log: EventLog
    folder: Path

    def config(self, out: Path, **others: Any) -> JobConfig:
        """A job of several parts and several batches in each."""
        given = {"name": "night", "k": 5, "users_per_part": 15, "batch_users": 4, "threads": 1} | others
        given = {"model": str(self.folder / "model"), "log": str(self.folder / "log")} | given
        return JobConfig(out=str(out), **given)

    def history(self, user: int) -> History:
        """The whole history of a user of the log, in the ids of the bundle, which are those of the log."""
        return History.of_user(self.log, user)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Saved]:
    """Makes saved models by the name that `MODELS` has for them; each once."""
    made: dict[tuple[str, bool], Saved] = {}

    def make(name: str = "popularity", integers: bool = True) -> Saved:
        if (name, integers) not in made:
            found = served(MODELS[name], integers=integers)
            folder = tmp_path_factory.mktemp(name)
            found.bundle.save(folder / "model")
            found.log.save(folder / "log")
            made[name, integers] = Saved(Bundle.load(folder / "model"), found.log, folder)
        return made[name, integers]

    return make


def lists_of(folder: Path) -> pd.DataFrame:
    """All rows, part after part."""
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def users_of(folder: Path) -> pd.DataFrame:
    """A row for each user."""
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "users").glob("*"))], ignore_index=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every Parquet file by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}
