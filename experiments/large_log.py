"""Makes the log `large_synthetic`: 5 million made-up users, 10 million made-up items, about 40 million events.

    python experiments/large_log.py                                        # into .recsys/data, in about two minutes
    python experiments/large_log.py --users 2000 --items 5000 --out elsewhere

`recsys prepare --dataset large_synthetic` finds what this wrote. A log that is there already is left alone; one of
another seed or size is overwritten only with `--again`. Memory does not grow with the number of events.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _large_events import INTERESTS, LEAST, MOST, Events, Shape, World

NAME = "large_synthetic"
VERSION = 1
"""Of the way the log is made; raise it when the same seed would give another log."""
USERS_AT_A_TIME = 1 << 16
ITEMS_AT_A_TIME = 1 << 20
ITEMS_OF_A_CATEGORY = 500
"""On average, where the number of categories is not given."""

README = """# {name}

**SYNTHETIC: no person did any of this, and no such item exists.** Made by `experiments/large_log.py`,
version {version}, seed {seed}.

- {items:,} items in {categories:,} categories. The c-th largest category has items in proportion to
  c^-{category_exponent}.
- {users:,} users. Each has {interests} interests: home, and two categories drawn in proportion to their items.
- The next event is in the category of the last with probability {stays}, and otherwise in one of the user's interests,
  each as likely. Users begin at home.
- Within a category items are drawn by a power law: the r-th has a share in proportion to about r^-{item_exponent}.
- Every user also takes {own:g} items of its own on average at some of the steps at home, neighbours in popularity, so
  that each item of the log has at least one event.
- Beside these a user has {least} events and more, {drawn:g} on average (geometric), but not above {most}. Of an item
  that is taken again the first time counts.
- Users begin within {days} days of 2023, and {gap_days:g} days on average pass between two events (exponential).

Columns: `events.parquet` has user_id, item_id, timestamp (Unix seconds), user by user in order of time; `items.parquet`
has item_id, category.

## Counts

{counts}
"""


class Facts:
    """Counts of the events that pass by.

    Args:
        category_of: `[items]` the category of each item, that of item 1 first.
    """

    def __init__(self, category_of: np.ndarray):
        self._category_of = category_of
        self._counts = np.zeros(len(category_of) + 1, dtype=np.int64)
        self._users = self._pairs = self._same = 0

    def add(self, events: Events) -> Events:
        """Counts events of users who are all there; gives them back."""
        self._counts += np.bincount(events.item, minlength=len(self._counts))
        category = self._category_of[events.item - 1]
        follows = events.user[1:] == events.user[:-1]
        self._users += len(events.user) - int(follows.sum())
        self._pairs += int(follows.sum())
        self._same += int((follows & (category[1:] == category[:-1])).sum())
        return events

    def of_log(self) -> dict[str, int | float]:
        """What was counted."""
        return {
            "users": self._users,
            "items": int(np.count_nonzero(self._counts)),
            "events": int(self._counts.sum()),
            "events_of_the_most_popular_item": int(self._counts.max()),
            "items_with_one_event": int((self._counts == 1).sum()),
            "next_event_in_the_same_category": self._same / max(self._pairs, 1),
        }


def main(argv: list[str] | None = None) -> int:
    default = Shape()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=default.users)
    parser.add_argument("--items", type=int, default=default.items)
    parser.add_argument("--categories", type=int, help=f"one of {ITEMS_OF_A_CATEGORY} items when left out")
    parser.add_argument("--seed", type=int, default=default.seed, help="of everything that is drawn")
    parser.add_argument("--out", type=Path, default=Path(".recsys/data"), help=f"gets a folder `{NAME}`")
    parser.add_argument("--again", action="store_true", help="overwrite a log that was made otherwise")
    given = parser.parse_args(argv)
    try:
        categories = given.categories or max(1, given.items // ITEMS_OF_A_CATEGORY)
        shape = Shape(users=given.users, items=given.items, categories=categories, seed=given.seed)
        print(make(given.out / NAME, shape, given.again))
    except (FileExistsError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make(folder: Path, shape: Shape, again: bool = False) -> str:
    """Makes the log and writes it into `folder`; what it says is to be printed.

    Raises:
        FileExistsError: `folder` holds something else, and `again` is not set.
    """
    asked = {"version": VERSION, "shape": asdict(shape)}
    if folder.exists() and not again:
        path = folder / "manifest.json"
        there: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if any(there.get(key) != value for key, value in asked.items()):
            raise FileExistsError(
                f"{folder} was made otherwise ({there.get('shape')}); give --again to overwrite it, or another --out"
            )
        return f"{folder}: there already"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        world = World(shape)
        category_of = world.categories()
        facts = Facts(category_of)
        _write(temporary / "items.parquet", _items(category_of))
        _write(temporary / "events.parquet", _events(world, facts))
        counts = facts.of_log()
        (temporary / "README.md").write_text(readme(shape, counts), encoding="utf-8")
        (temporary / "manifest.json").write_text(json.dumps(asked | {"counts": counts}, indent=2), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"{folder}: {counts['events']:,} events of {counts['users']:,} users and {counts['items']:,} items"


def _items(category_of: np.ndarray) -> Iterator[pa.Table]:
    """The side table of items in parts."""
    for begin in range(0, len(category_of), ITEMS_AT_A_TIME):
        category = category_of[begin : begin + ITEMS_AT_A_TIME].astype(np.int64)
        yield pa.table({"item_id": np.arange(begin + 1, begin + 1 + len(category)), "category": category})


def _events(world: World, facts: Facts) -> Iterator[pa.Table]:
    """The log in parts of whole users."""
    for begin in range(0, world.shape.users, USERS_AT_A_TIME):
        events = facts.add(world.events(begin, min(begin + USERS_AT_A_TIME, world.shape.users)))
        yield pa.table({"user_id": events.user, "item_id": events.item, "timestamp": events.timestamp})


def _write(path: Path, parts: Iterator[pa.Table]) -> None:
    """Writes a Parquet file, a group of rows for each part."""
    first = next(parts)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def readme(shape: Shape, counts: dict[str, int | float]) -> str:
    """What the log is, for people."""
    return README.format(
        name=NAME,
        version=VERSION,
        interests=INTERESTS,
        least=LEAST,
        most=MOST,
        own=shape.items / shape.users,
        counts="\n".join(
            f"- {name}: {value:,.6g}" if isinstance(value, float) else f"- {name}: {value:,}"
            for name, value in counts.items()
        ),
        **asdict(shape),
    )


if __name__ == "__main__":
    raise SystemExit(main())
