from __future__ import annotations

import io
import os
import urllib.error
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.features import datasets
from recsys.features.datasets import DatasetError, dataset_names, load_dataset
from recsys.features.event_log import EventLog
from recsys.features.given_parts import GivenParts

DATA = os.environ.get(datasets.ROOT_VARIABLE)
U_DATA = "1\t2\t5\t100\n1\t1\t3\t90\n7\t2\t4\t80\n"
U_ITEM = (
    "1|Lion King, The (1994)|01-Jan-1994||http://x|" + "|".join("001" + "0" * 16) + "\n"
    "2|Misérables, Les (1995)|01-Jan-1995||http://x|" + "|".join("0" * 8 + "1" + "0" * 9 + "1") + "\n"
    "3|unknown||||" + "|".join("1" + "0" * 18) + "\n"
)


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No installed package and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(datasets, "_recbole_folder", lambda: None)
    monkeypatch.setattr(datasets.urllib.request, "urlopen", refuse)


def check_tiny(log: EventLog) -> None:
    assert log.to_frame()[["user_id", "item_id"]].values.tolist() == [[1, 1], [1, 2], [7, 2]]
    assert log.item_titles is not None
    assert log.item_titles.tolist()[1:] == ["The Lion King (1994)", "Les Misérables (1995)"]
    genres = [log.vocabularies["genres"].decode(log.item_features["genres"].row(i)).tolist() for i in (1, 2)]
    assert genres == [["Adventure"], ["Drama", "Western"]]
    assert log.vocabularies["decade"].values.tolist() == [1990]


@pytest.mark.parametrize("name", ["movielens_100k", "ml-100k"])
def test_movielens_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    nowhere(monkeypatch)
    (tmp_path / name).mkdir()
    (tmp_path / name / "u.data").write_text(U_DATA)
    (tmp_path / name / "u.item").write_text(U_ITEM, encoding="latin-1")
    source = load_dataset("movielens_100k", tmp_path)
    check_tiny(EventLog.from_frame(source.events, source.schema, source.items))  # type: ignore[arg-type]


def test_movielens_from_its_official_place(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder:
        folder.writestr("ml-100k/u.data", U_DATA)
        folder.writestr("ml-100k/u.item", U_ITEM.encode("latin-1"))
    monkeypatch.setattr(datasets.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(archive.getvalue()))
    with pytest.raises(DatasetError, match="checksum"):
        load_dataset("movielens_100k")
    digest = datasets.hashlib.md5(archive.getvalue()).hexdigest()
    monkeypatch.setattr(datasets, "MOVIELENS_MD5", digest)
    source = load_dataset("movielens_100k")
    check_tiny(EventLog.from_frame(source.events, source.schema, source.items))  # type: ignore[arg-type]


def test_movielens_nowhere_names_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch)
    with pytest.raises(DatasetError) as caught:
        load_dataset("movielens_100k", tmp_path)
    for way in ("u.data", "pip install --no-deps recbole==1.2.1", datasets.MOVIELENS_URL, str(tmp_path)):
        assert way in str(caught.value)


@pytest.mark.skipif(datasets._recbole_folder() is None, reason="the distribution recbole is not installed")
def test_movielens_from_the_installed_package() -> None:
    source = load_dataset("movielens_100k", "/nonexistent")
    log = EventLog.from_frame(source.events, source.schema, source.items)  # type: ignore[arg-type]
    assert (log.n_users, log.n_items, log.n_events) == (943, 1682, 100_000)
    assert log.facts["items_without_side_row"] == 0 and log.facts["events_merged"] == 0
    assert log.item_titles is not None
    titles = log.item_titles[log.items.encode([1, 71, 50])]
    assert titles.tolist() == ["Toy Story (1995)", "The Lion King (1994)", "Star Wars (1977)"]
    genres = log.vocabularies["genres"].decode(log.item_features["genres"].row(1)).tolist()
    assert genres == ["Animation", "Children's", "Comedy"]
    assert len(log.vocabularies["genres"]) == 19


@pytest.mark.skipif(DATA is None, reason=f"{datasets.ROOT_VARIABLE} is not set")
@pytest.mark.parametrize(
    ("name", "sizes"), [("amazon_beauty", (22_363, 12_101, 198_502)), ("amazon_sports", (35_598, 18_357, 296_337))]
)
def test_amazon_keeps_the_published_order(name: str, sizes: tuple[int, int, int]) -> None:
    source = load_dataset(name)
    log = EventLog.from_frame(source.events, source.schema, source.items)  # type: ignore[arg-type]
    assert (log.n_users, log.n_items, log.n_events) == sizes
    assert isinstance(source.events, Path) and isinstance(source.items, Path)
    raw = pd.read_parquet(source.events).sort_values(["user_id", "position"])
    assert np.array_equal(log.items.decode(log.item_id), raw["item_id"])
    assert np.array_equal(log.timestamp, raw["timestamp"])
    items = pd.read_parquet(source.items).set_index("item_id")
    for item in (1, 500, log.n_items):
        attributes = items["attributes"][int(log.items.decode([item])[0])]
        codes = log.item_features["attributes"].row(item)
        assert log.vocabularies["attributes"].decode(codes).tolist() == attributes.tolist()[:32]


SEARCH_EVENTS = {"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": [0, 0, 0], "position": [1, 0, 0]}


@pytest.mark.parametrize(("name", "text"), [("search_beauty", "text_id"), ("search_cellphones", "categories")])
def test_search_logs_are_found_where_they_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, root)
    for part in (f"python experiments/search_logs.py {name}", str(root / name), str(datasets.MADE / name)):
        assert part in str(caught.value)

    folder = tmp_path / datasets.MADE / name
    folder.mkdir(parents=True)
    queries = ["red nail", None, "nail"]
    pd.DataFrame(SEARCH_EVENTS | {"query": queries}).to_parquet(folder / "events.parquet")
    items = pd.DataFrame({"item_id": [7, 8], "asin": ["A", "B"], "attributes": [[1], [2]], text: ["red nail", "nail"]})
    items.to_parquet(folder / "items.parquet")
    source = load_dataset(name, root)
    log = EventLog.from_frame(source.events, source.schema, source.items)  # type: ignore[arg-type]
    frame = log.to_frame()
    assert frame["item_id"].tolist() == [8, 7, 7]  # by position: their times are equal
    assert frame["query"].fillna("").tolist() == ["", "red nail", "nail"]
    nail = log.encoders["words"].encode(["nail"])[0]
    assert all(nail in log.item_features["words"].row(item) for item in (1, 2))
    assert nail in log.query_features["query_words"].row(1)

    root.mkdir()
    folder.rename(root / name)
    assert load_dataset(name, root).events == root / name / "events.parquet"


def test_the_large_log_is_found_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"make it with `python experiments/large_log\.py`"):
        load_dataset("large_synthetic", tmp_path)
    folder = tmp_path / datasets.MADE / "large_synthetic"
    folder.mkdir(parents=True)
    pd.DataFrame({"user_id": [1, 1, 2], "item_id": [7, 8, 7], "timestamp": 0}).to_parquet(folder / "events.parquet")
    pd.DataFrame({"item_id": [7, 8], "category": [0, 3]}).to_parquet(folder / "items.parquet")
    source = load_dataset("large_synthetic", tmp_path)
    log = EventLog.from_frame(source.events, source.schema, source.items)  # type: ignore[arg-type]
    codes = [log.item_features["category"].row(item).tolist() for item in (1, 2)]
    assert log.vocabularies["category"].decode(codes).tolist() == [[0], [3]]


def test_movielens_with_more_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(monkeypatch)
    folder = tmp_path / "movielens_100k"
    folder.mkdir()
    (folder / "u.data").write_text(U_DATA)
    (folder / "u.item").write_text(U_ITEM.replace("Misérables, Les", "King Lion 1994, The"), encoding="latin-1")
    with pytest.raises(DatasetError, match=r"no u.user beside u.data"):
        load_dataset("movielens_100k_features", tmp_path)
    (folder / "u.user").write_text("1|24|M|technician|85711\n7|57|F|other|94043\n")
    source = load_dataset("movielens_100k_features", tmp_path)
    log = EventLog.from_frame(source.events, source.schema, source.items, source.users)  # type: ignore[arg-type]

    def of(features: Mapping[str, Any], name: str, row: int) -> list[Any]:
        found: list[Any] = log.vocabularies[name].decode(features[name].row(row)).tolist()
        return found

    assert of(log.item_features, "words", 1) == ["the", "lion", "king"], "the year is no word of the title"
    assert of(log.item_features, "year", 1) == [1994] and of(log.item_features, "decade", 1) == [1990]
    users = [[of(log.user_features, name, row) for name in ("gender", "occupation", "age_decade")] for row in (1, 2)]
    assert users == [[["M"], ["technician"], [20]], [["F"], ["other"], [50]]]


def test_amazon_attributes_are_features_by_their_place(tmp_path: Path) -> None:
    folder = tmp_path / "amazon_sports"
    folder.mkdir()
    events = {"user_id": [1, 1, 2], "item_id": [1, 2, 1], "timestamp": 0, "position": [0, 1, 0]}
    pd.DataFrame(events).to_parquet(folder / "interactions.parquet")
    items = {"item_id": [1, 2], "attributes": [[9, 2, 3, 4, 5], [8, 2]], "text_id": ["red bike", "bike red"]}
    pd.DataFrame(items).to_parquet(folder / "items.parquet")
    source = load_dataset("amazon_sports_features", tmp_path)
    log = EventLog.from_frame(pd.read_parquet(source.events), source.schema, source.items)  # type: ignore[arg-type]
    names = ("attribute_1", "attribute_2", "attribute_3", "further_attributes", "words")
    found = [[log.vocabularies[n].decode(log.item_features[n].row(i)).tolist() for n in names] for i in (1, 2)]
    assert found == [[[9], [2], [3], [4, 5], ["red", "bike"]], [[8], [2], [], [], ["bike", "red"]]]


def test_names_and_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset_names() == [
        "amazon_beauty", "amazon_beauty_features", "amazon_sports", "amazon_sports_features",
        "coat", "gowalla", "large_synthetic", "movielens_100k", "movielens_100k_features",
        "search_beauty", "search_cellphones", "search_movielens", "search_sports",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no data set `netflix`; there are amazon_beauty"):
        load_dataset("netflix")
    monkeypatch.delenv(datasets.ROOT_VARIABLE, raising=False)
    with pytest.raises(DatasetError, match="set RECSYS_DATA"):
        load_dataset("amazon_beauty")
    with pytest.raises(DatasetError, match=r"interactions\.parquet"):
        load_dataset("amazon_beauty", tmp_path)


def test_coat_has_ratings_of_both_parts_and_no_times(tmp_path: Path) -> None:
    rows = [(0, 5, 4, "train_mnar", 0.5), (0, 5, 2, "test_random", 0.25), (1, 5, 5, "test_random", 0.5)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "split", "propensity"])
    (tmp_path / "coat").mkdir()
    with pytest.raises(DatasetError, match=r"coat.interactions\.parquet"):
        load_dataset("coat", tmp_path)
    frame.to_parquet(tmp_path / "coat" / "interactions.parquet")
    source = load_dataset("coat", tmp_path)
    log = EventLog.from_frame(source.events, source.schema)  # type: ignore[arg-type]
    found = log.to_frame()[["user_id", "item_id", "weight", "split", "propensity"]]
    assert [tuple(row) for row in found.itertuples(index=False)] == rows
    assert not log.timestamp.any()


def test_gowalla_is_split_as_it_was_published(tmp_path: Path) -> None:
    if DATA is None or not (Path(DATA) / "gowalla").exists():
        pytest.skip(f"no folder `gowalla` under {datasets.ROOT_VARIABLE}")
    source = load_dataset("gowalla")
    split = GivenParts(validation_share=0.0)(EventLog.from_frame(source.events, source.schema))  # type: ignore[arg-type]
    assert (split.log.n_users, split.log.n_items) == (29_858, 40_981)
    assert (split.facts["train_events"], split.facts["test_events"]) == (810_128, 217_242)
    assert split.facts["left_out_events"] == 0 and not split.log.timestamp.any()
