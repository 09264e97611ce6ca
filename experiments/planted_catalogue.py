"""A made log whose targets are determined by categories that tell of each other, and some of whose items are new.

python experiments/planted_catalogue.py .recsys/data/planted_catalogue
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.features.schema import Schema

LEVELS = (10, 100, 400)
"""Departments, shelves and kinds of goods: a kind lies on one shelf, and a shelf in one department."""
LENGTH = 8
FAITHFUL, NEW = 0.9, 0.2
SCHEMA = Schema.parse(
    {
        "name": "planted_catalogue",
        "features": [
            {"name": name, "column": name, "type": "categorical"} for name in ("department", "shelf", "kind", "maker")
        ],
    }
)


class Planted(NamedTuple):
    """A log and what is known of its items.

    Attributes:
        events: `user_id, item_id, timestamp`; new items appear as last events alone, of every second user at most.
        items: `item_id, department, shelf, kind, maker`.
        new: `[n]` ids of the new items.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    new: NDArray[np.int64]


def planted_catalogue(seed: int, items: int = 1500, users: int = 600, complete: bool = False) -> Planted:
    """Users who stay with one shelf, and new items of it that are filed under their kind alone.

    What a user wants is known from the shelf; of a new item the shelf is not told. The catalogue tells it: other items
    of that kind have a shelf. Those who learn from events alone need not learn kinds, for shelves explain all events.

    Args:
        seed: of all draws.
        items: number of items, a fifth of them new; each kind has one that is not.
        users: number of users with eight events each, nine in ten of them on the user's shelf.
        complete: new items have shelf and department as all others.

    Example:
        >>> planted = planted_catalogue(0, items=900, users=20)
        >>> int(planted.items.groupby("kind")["shelf"].nunique().max())
        1
    """
    random = np.random.default_rng(seed)
    kind = np.append(np.arange(LEVELS[2]), random.integers(0, LEVELS[2], items - LEVELS[2]))
    shelf = kind % LEVELS[1]
    maker = np.where(random.random(items) < 0.5, shelf, (shelf + 1) % LEVELS[1])
    new = random.random(items) < NEW
    new[: LEVELS[2]] = False
    told = pd.DataFrame({"department": shelf % LEVELS[0], "shelf": shelf}, dtype="Int64")
    if not complete:
        told[new] = pd.NA
    table = pd.DataFrame({"item_id": np.arange(items), "kind": kind, "maker": maker}).join(told)
    popularity = ~new / random.permutation(np.arange(1, items + 1))
    of_shelves = 1 / np.arange(1, LEVELS[1] + 1)
    rows = []
    for user in range(users):
        taste = random.choice(LEVELS[1], p=of_shelves / of_shelves.sum())
        own = popularity * (shelf == taste)
        stays = random.random(LENGTH) < FAITHFUL
        stays[-1] = True
        chosen = np.where(
            stays,
            random.choice(items, LENGTH, p=own / own.sum()),
            random.choice(items, LENGTH, p=popularity / popularity.sum()),
        )
        there = np.flatnonzero(new & (shelf == taste))
        if user % 2 and len(there):
            chosen[-1] = random.choice(there)
        rows.append(chosen)
    events = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), LENGTH),
            "item_id": np.concatenate(rows),
            "timestamp": np.tile(np.arange(LENGTH), users) * 3600,
        }
    )
    return Planted(events, table, np.flatnonzero(new))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--complete", action="store_true", help="tell shelf and department of new items too")
    arguments = parser.parse_args()
    planted = planted_catalogue(arguments.seed, complete=arguments.complete)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("events", planted.events), ("items", planted.items)):
        unfinished = arguments.folder / f".{name}.parquet"
        frame.to_parquet(unfinished, index=False)
        unfinished.replace(arguments.folder / f"{name}.parquet")
    print(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
