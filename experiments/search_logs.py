"""Makes the search logs: purchases of real people, with queries that nobody typed.

    python experiments/search_logs.py                    # all of them, into .recsys/data
    python experiments/search_logs.py search_beauty --seed 1 --out elsewhere
    python experiments/search_logs.py --check            # print facts of what is there

`recsys prepare --dataset search_beauty` finds what this wrote. A log that is there already is left alone; one made
otherwise (another seed, other sources) is overwritten only with `--again`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from _search_facts import facts
from _search_purchases import purchase_log
from _search_queries import Shares, draw_queries, generic_words
from _search_sources import Read, movielens, parquet

VERSION = 2
"""Of the way the logs are made; raise it when the same seed would give another log."""

SHARES = Shares()
FILM_SHARES = Shares(commonest=800)
"""Of MovieLens, where half of the films are dramas."""


@dataclass(frozen=True)
class Made:
    """A search log before it is written.

    Attributes:
        events: one row an event.
        items: one row an item.
        counts: what was drawn, kept and left out.
        readme: how it was made, for people.
    """

    events: pd.DataFrame
    items: pd.DataFrame
    counts: dict[str, int]
    readme: str


@dataclass(frozen=True)
class Recipe:
    """How one search log is made.

    Attributes:
        read: gives the tables that it is made from.
        text: column of the items' texts.
        make: makes the log from the tables and a seed.
        shares: of what is drawn, where queries are.
    """

    read: Read
    text: str
    make: Callable[[dict[str, pd.DataFrame], int], Made]
    shares: Shares | None = None


def amazon(tables: dict[str, pd.DataFrame], seed: int) -> Made:
    """The whole log of reviews, with a query for some of them."""
    items, events = tables["items"], tables["interactions"]
    events = events.sort_values(["user_id", "position"], ignore_index=True)
    generic = generic_words(items["text_id"], SHARES.rarest, SHARES.commonest)
    bought = pd.Index(items["item_id"]).get_indexer(events["item_id"])
    queries, counts = draw_queries(bought, generic, SHARES, seed)
    events = events[["user_id", "item_id", "timestamp", "position"]].assign(query=pd.array(queries, dtype="string"))
    counts |= {"generic_words": len(generic.words), "items_without_words": int((generic.of_item.lengths == 0).sum())}
    return Made(events, items[["item_id", "attributes", "text_id"]], counts, AMAZON)


def films(tables: dict[str, pd.DataFrame], seed: int) -> Made:
    """The whole log of ratings, with a query for some of them."""
    items, events = tables["items"], tables["events"].reset_index(drop=True)
    genres = items["genres"].str.replace(r"[-']", "", regex=True).str.replace("|", " ")  # one word a genre
    texts = items["title"].str.replace(r"\s*\(\d{4}\)$", "", regex=True) + " " + genres
    generic = generic_words(texts, FILM_SHARES.rarest, FILM_SHARES.commonest)
    rated = pd.Index(items["item_id"]).get_indexer(events["item_id"])
    queries, counts = draw_queries(rated, generic, FILM_SHARES, seed)
    events = events[["user_id", "item_id", "timestamp"]].assign(query=pd.array(queries, dtype="string"))
    counts |= {"generic_words": len(generic.words), "items_without_words": int((generic.of_item.lengths == 0).sum())}
    return Made(events, items[["item_id", "title", "genres", "decade"]].assign(text=texts), counts, FILMS)


def cellphones(tables: dict[str, pd.DataFrame], seed: int) -> Made:
    """Purchases in the order of the file, and the published test rows after them."""
    return Made(*purchase_log(tables["search"], tables["queries"], tables["items"], seed), CELLPHONES)


DRAWN = """- Each event is a search with probability {searches}, independently of everything else; `query` is null where
  it is not.
- A query has 1 to {longest} words ({lengths}) of the item's `{text}`, drawn with equal chances among its generic
  words: at least three Latin letters, in the texts of {rarest} to {commonest} items, no stop word. An item with fewer
  generic words gives those it has; one with none gets no query (counted).
- Each word is replaced with probability {noise} by a generic word that the item does not hold, drawn as often as
  items hold it.
- The words stand in alphabetical order, so that the same words are the same query.
"""


def how_drawn(shares: Shares, text: str) -> str:
    """How queries are drawn, for people."""
    return DRAWN.format(
        searches=f"{shares.searches:.0%}",
        longest=len(shares.lengths),
        lengths=", ".join(f"{share:.0%}" for share in shares.lengths),
        text=text,
        rarest=shares.rarest,
        commonest=shares.commonest,
        noise=f"{shares.noise:.0%}",
    )


AMAZON = f"""
The purchases (reviews, users, items, order, times) are those of the source. **The queries are SYNTHETIC: nobody typed
them.** They are words of the item that was bought:

{how_drawn(SHARES, "text_id")}
Many items match a query equally well; which of them was bought is a matter of the person. What a model gains from
queries here says that it can read them, not how people search.

Columns: `events.parquet` has user_id, item_id, timestamp, position, query; `items.parquet` has item_id, attributes,
text_id.
"""
FILMS = f"""
The ratings (users, films, times) are those of the source. **The queries are SYNTHETIC: nobody typed them.** They are
words of the title and the genres of the film that was rated:

{how_drawn(FILM_SHARES, "text")}
Columns: `events.parquet` has user_id, item_id, timestamp, query; `items.parquet` has item_id, title, genres, decade,
text. MovieLens data may be used for research under GroupLens' terms.
"""
CELLPHONES = """
Who bought what is real. **The queries are SYNTHETIC: nobody typed them.** They are the category paths of products, as
published with the source (Ai et al., "Learning a Hierarchical Embedding Model for Personalized Product Search", SIGIR
2017). **The times are made up: the source has none.**

- One event for each distinct (user, item) of the source's training rows, in the order of the file, which says nothing
  of time. Where the source has several queries for one purchase, one is drawn by the seed.
- Then, as the last event of its user, a test row of the source (`split` is `test`); where a user has several, one is
  drawn by the seed and the others are left out (counted). Users without a test row end with a training event: judge on
  the users whose last event has `split` `test`.
- `timestamp` is `position` in days from 1970: it orders a user's events, and says nothing else. A split by time means
  nothing here.
- The items have no text in the source. `categories` is made of the queries of the item's training rows, never of test
  queries. A query of a test row stands in no training row.

Columns: `events.parquet` has user_id, item_id, timestamp, position, query, split; `items.parquet` has item_id, asin,
categories.
"""

LOGS = {
    "search_movielens": Recipe(movielens, "text", films, FILM_SHARES),
    "search_beauty": Recipe(parquet("amazon_beauty", "interactions", "items"), "text_id", amazon, SHARES),
    "search_sports": Recipe(parquet("amazon_sports", "interactions", "items"), "text_id", amazon, SHARES),
    "search_cellphones": Recipe(
        parquet("amazon_product_search_cellphones", "search", "queries", "items"), "categories", cellphones
    ),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LOGS)}; all when left out")
    parser.add_argument("--source", type=Path, help="folder of the data sets; RECSYS_DATA when left out")
    parser.add_argument("--out", type=Path, default=Path(".recsys/data"), help="folder of the search logs")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--again", action="store_true", help="overwrite a log that was made otherwise")
    parser.add_argument("--check", action="store_true", help="print facts of the logs that are there, and make none")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(LOGS):
        parser.error(f"no search log {', '.join(sorted(unknown))}; there are {', '.join(LOGS)}")
    names = arguments.names or list(LOGS)
    if arguments.check:
        missing = [name for name in names if not (arguments.out / name / "manifest.json").exists()]
        if missing:
            parser.error(f"no {', '.join(missing)} in {arguments.out}; leave --check out to make what is missing")
        for name in names:
            print(f"{name} {json.dumps(check(arguments.out / name, LOGS[name].text), indent=2)}")
        return 0
    source = arguments.source or os.environ.get("RECSYS_DATA")
    try:
        for name in names:
            print(make(name, Path(source) if source else None, arguments.out, arguments.seed, arguments.again))
    except (FileNotFoundError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check(folder: Path, text: str) -> dict[str, float]:
    """Facts of a written log."""
    return facts(pd.read_parquet(folder / "events.parquet"), pd.read_parquet(folder / "items.parquet"), text)


def make(name: str, source: Path | None, out: Path, seed: int, again: bool = False) -> str:
    """Makes one log and writes it into `out/name`; what it says is to be printed.

    Raises:
        FileNotFoundError: a source file is missing.
        FileExistsError: `out/name` holds something else, and `again` is not set.
    """
    recipe, folder = LOGS[name], out / name
    asked = {"version": VERSION, "name": name, "seed": seed, "shares": recipe.shares and asdict(recipe.shares)}
    found = recipe.read(source)
    asked |= {"sources": found.fingerprints}
    asked = json.loads(json.dumps(asked))  # as the manifest gives it back: tuples are lists there
    if folder.exists() and not again:
        there = manifest(folder)
        if other := ", ".join(f"{key} {there.get(key)!r}" for key in asked if there.get(key) != asked[key]):
            raise FileExistsError(
                f"{folder} was made otherwise ({other}); give --again to overwrite it, or another --out"
            )
        return f"{folder}: there already"
    made = recipe.make(found.tables, seed)
    counts = made.counts | facts(made.events, made.items, recipe.text)
    write(folder, made, asked | {"counts": counts})
    return f"{folder}: {counts['events']:,} events, {counts['searches']:,} of them searches"


def manifest(folder: Path) -> dict[str, Any]:
    """What is known of a written log; nothing where there is no manifest."""
    path = folder / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(folder: Path, made: Made, manifest: dict[str, Any]) -> None:
    """Writes beside `folder` and renames when all is there, so that a killed run leaves no half log."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        made.events.to_parquet(temporary / "events.parquet", index=False)
        made.items.to_parquet(temporary / "items.parquet", index=False)
        counts = "\n".join(f"- {name}: {value:,.6g}" for name, value in manifest["counts"].items())
        made_by = f"Made by `experiments/search_logs.py`, version {VERSION}, seed {manifest['seed']}"
        origin = f"{made_by}, from {', '.join(manifest['sources'])}."
        text = f"# {folder.name}\n\n{origin}\n{made.readme}\n## Counts\n\n{counts}\n"
        (temporary / "README.md").write_text(text, encoding="utf-8")
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
