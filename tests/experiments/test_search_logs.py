from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import search_logs
from _search_facts import facts
from _search_purchases import DAY, purchase_log
from _search_queries import STOP_WORDS, GenericWords, Shares, draw_queries, generic_words

EVENTS = 30_000


@pytest.fixture(scope="module")
def texts() -> pd.Series:
    """300 items of up to six of 60 words, some frequent and some rare; the last two items have no generic word."""
    random = np.random.default_rng(0)
    words = np.array([f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)])
    chance = np.arange(60, 0, -1) ** 2 / (np.arange(60, 0, -1) ** 2).sum()
    rows = [random.choice(words, random.integers(3, 7), replace=False, p=chance) for _ in range(298)]
    return pd.Series([*(" ".join([*row, row[0], "and THE for"]) for row in rows), "of 12 3d", ""])


@pytest.fixture(scope="module")
def generic(texts: pd.Series) -> GenericWords:
    return generic_words(texts, rarest=10, commonest=50)


@pytest.fixture(scope="module")
def item(texts: pd.Series) -> np.ndarray:
    return np.random.default_rng(1).integers(0, len(texts), EVENTS)


def within(share: float, expected: float, n: int) -> bool:
    """At most four standard errors apart."""
    return abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)


def words_of(texts: pd.Series, generic: GenericWords) -> list[set[str]]:
    return [set(text.split()) & set(generic.words) for text in texts]


# ---- words and queries


def test_generic_words_are_neither_rare_nor_common(texts: pd.Series, generic: GenericWords) -> None:
    frequency = Counter(word for text in texts for word in set(text.lower().split()))
    expected = {
        word
        for word, count in frequency.items()
        if 10 <= count <= 50 and len(word) > 2 and word.isalpha() and word not in STOP_WORDS
    }
    assert list(generic.words) == sorted(expected)
    words = [count for word, count in frequency.items() if word.startswith("word")]
    assert max(words) > 50 and min(words) < 10
    for row, words in enumerate(words_of(texts, generic)):
        assert [generic.words[code] for code in generic.of_item.row(row)] == sorted(words)


def test_words_are_runs_of_letters_whatever_stands_between() -> None:
    texts = pd.Series(["Nail-Polish, nail", "NAIL's cream/polish 50ml", "crème"])
    found = generic_words(texts, rarest=1, commonest=2)
    assert list(found.words) == ["cream", "nail", "polish"]
    assert found.of_item.row(0).tolist() == [1, 2] and found.of_item.row(2).tolist() == []


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_queries_are_words_of_the_bought_item_but_for_noise(
    texts: pd.Series, generic: GenericWords, item: np.ndarray, noise: float
) -> None:
    shares = Shares(noise=noise)
    queries, counts = draw_queries(item, generic, shares, seed=5)
    own = words_of(texts, generic)
    asked = [(own[place], query.split(" ")) for place, query in zip(item, queries, strict=True) if query is not None]
    assert all(1 <= len(words) <= 3 and words == sorted(set(words)) for _, words in asked)
    assert all(set(words) <= set(generic.words) for _, words in asked)
    foreign = sum(word not in mine for mine, words in asked for word in words)
    assert (counts["searches"], counts["noise_words"]) == (len(asked), foreign)
    assert counts["words"] == sum(len(words) for _, words in asked)
    assert within(foreign / counts["words"], noise, counts["words"])


def test_the_shares_are_kept(texts: pd.Series, generic: GenericWords, item: np.ndarray) -> None:
    shares = Shares(searches=0.3, lengths=(0.2, 0.5, 0.3))
    queries, counts = draw_queries(item, generic, shares, seed=6)
    have = np.array([len(words) for words in words_of(texts, generic)])[item]
    searched = pd.notna(queries)
    assert within((counts["searches"] + counts["searches_without_words"]) / EVENTS, 0.3, EVENTS)
    assert within(searched[have > 0].mean(), 0.3, int((have > 0).sum()))
    assert not searched[have == 0].any() and counts["searches_without_words"] > 0
    length = np.array([len(query.split()) for query in queries[searched & (have >= 3)]])
    for words, share in zip((1, 2, 3), shares.lengths, strict=True):
        assert within((length == words).mean(), share, len(length))
    single = np.array([len(query.split()) for query in queries[searched & (have == 1)]])
    assert (single == 1).all()


def test_every_word_of_an_item_is_as_likely(texts: pd.Series, generic: GenericWords) -> None:
    words = words_of(texts, generic)
    item = next(row for row, own in enumerate(words) if len(own) >= 4)
    queries, counts = draw_queries(np.full(EVENTS, item), generic, Shares(noise=0.0, lengths=(1.0,)), seed=7)
    asked = Counter(query for query in queries if query is not None)
    assert set(asked) == words[item]
    assert all(within(n / counts["searches"], 1 / len(asked), counts["searches"]) for n in asked.values())


def test_noise_follows_the_frequency_of_words(texts: pd.Series, generic: GenericWords) -> None:
    item = next(row for row, words in enumerate(words_of(texts, generic)) if words)
    queries, counts = draw_queries(np.full(EVENTS, item), generic, Shares(noise=1.0, lengths=(1.0,)), seed=8)
    held = np.bincount(generic.of_item.values, minlength=len(generic.words)).astype(float)
    held[generic.of_item.row(item)] = 0
    asked = Counter(query for query in queries if query is not None)
    for word, share in zip(generic.words, held / held.sum(), strict=True):
        assert within(asked[word] / counts["searches"], share, counts["searches"])


def test_a_catalogue_without_other_words_has_no_noise() -> None:
    generic = generic_words(pd.Series(["red shoe", "red shoe"]), rarest=1, commonest=9)
    queries, counts = draw_queries(np.zeros(100, dtype=np.int64), generic, Shares(searches=1.0, noise=1.0), seed=0)
    assert set(queries) == {"red", "shoe", "red shoe"} and counts["noise_words"] == 0


def test_the_seed_decides_everything(generic: GenericWords, item: np.ndarray) -> None:
    first, again, other = (draw_queries(item, generic, Shares(), seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again and first != other


# ---- published purchases


def test_purchases_in_the_order_of_the_file_and_test_rows_last() -> None:
    random = np.random.default_rng(3)
    rows = [
        (user, query, item, "train")
        for user in range(20)
        for item in random.choice(15, 6, replace=False)
        for query in random.choice(8, random.integers(1, 4), replace=False)
    ]
    random.shuffle(rows)
    rows = [(int(user), int(query), int(item), split) for user, query, item, split in rows]
    tests = [(user, 8 + n % 2, 15 + n, "test") for user in range(0, 20, 3) for n in range(1 + user % 2)]
    search = pd.DataFrame([*tests, *rows], columns=["user_id", "query_id", "item_id", "split"])
    queries = pd.DataFrame({"query_id": range(10), "text": [f"case {n}" for n in range(10)]})
    asked = search[search["split"] == "train"].groupby("item_id")["query_id"].agg(lambda ids: sorted(set(ids)))
    items = pd.DataFrame({"item_id": asked.index, "asin": [f"B{n}" for n in asked.index], "train_query_ids": asked})
    events, table, counts = purchase_log(search, queries, items.reset_index(drop=True), seed=4)

    expected: dict[int, dict[int, set[str]]] = {user: {} for user in range(20)}
    for user, query, item, _ in rows:
        expected[user].setdefault(item, set()).add(f"case {query}")
    possible = {user: {item: f"case {query}" for u, query, item, _ in tests if u == user} for user in range(20)}
    for user, own in events.groupby("user_id"):
        train = own[own["split"] == "train"]
        assert train["item_id"].tolist() == list(expected[user])
        assert all(query in expected[user][item] for item, query in zip(train["item_id"], train["query"], strict=True))
        last = own[own["split"] == "test"]
        assert len(last) == min(len(possible[user]), 1) and (not len(last) or own.index[-1] == last.index[0])
        assert all(possible[user][item] == q for item, q in zip(last["item_id"], last["query"], strict=True))
        assert own["position"].tolist() == list(range(len(own)))
        assert own["timestamp"].tolist() == [DAY * n for n in range(len(own))]
    assert counts["test_rows_left_out"] == len(tests) - len(range(0, 20, 3))
    assert counts["other_queries_of_a_purchase"] == len(rows) - 120
    texts = table.set_index("item_id")["categories"]
    assert {item: text.split("; ") for item, text in texts.items()} == {
        item: [f"case {query}" for query in ids] for item, ids in asked.items()
    }
    other = purchase_log(search, queries, items.reset_index(drop=True), seed=5)[0]
    train = events["split"] == "train"
    assert other[train]["item_id"].equals(events[train]["item_id"])
    for part in (train, ~train):
        assert not other[part]["query"].equals(events[part]["query"])


# ---- facts


def test_facts_agree_with_a_loop(texts: pd.Series, generic: GenericWords, item: np.ndarray) -> None:
    queries, _ = draw_queries(item[:500], generic, Shares(searches=0.5, noise=0.3), seed=9)
    events = pd.DataFrame({"user_id": np.arange(500) % 7, "item_id": item[:500] + 100, "query": queries})
    items = pd.DataFrame({"item_id": np.arange(len(texts)) + 100, "name": texts})
    found = facts(events, items, "name")
    sets = [set(text.lower().split()) for text in texts]
    asked = [(place, set(query.split())) for place, query in zip(item[:500], queries, strict=True) if query is not None]
    ties = [sum(words <= held for held in sets) for _, words in asked]
    assert found == {
        "users": 7,
        "items": len(texts),
        "events": 500,
        "searches": len(asked),
        "distinct_queries": len({query for query in queries if query is not None}),
        "words_per_search": pytest.approx(np.mean([len(words) for _, words in asked])),
        "items_with_every_word": pytest.approx(np.mean(ties)),
        "items_with_every_word_median": np.median(ties),
        "bought_items_with_every_word": pytest.approx(np.mean([words <= sets[place] for place, words in asked])),
    }


# ---- the command


@pytest.fixture
def source(tmp_path: Path, texts: pd.Series) -> Path:
    folder = tmp_path / "source" / "amazon_beauty"
    folder.mkdir(parents=True)
    attributes = [[1, 2]] * len(texts)
    items = pd.DataFrame({"item_id": np.arange(1, len(texts) + 1), "attributes": attributes, "text_id": texts})
    items.to_parquet(folder / "items.parquet")
    events = pd.DataFrame({"user_id": [2, 1, 1] * 20, "item_id": np.arange(1, 61), "position": np.arange(60)})
    events.assign(timestamp=86_400 * events["position"]).to_parquet(folder / "interactions.parquet")
    return folder.parent


def run(source: Path, out: Path, *more: str) -> int:
    return search_logs.main(["search_beauty", "--source", str(source), "--out", str(out), *more])


def test_a_log_is_written_once(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(source, out) == 0
    folder = out / "search_beauty"
    names = {"events.parquet", "items.parquet", "README.md", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == names and [path.name for path in out.iterdir()] == [folder.name]
    events = pd.read_parquet(folder / "events.parquet")
    assert list(events.columns) == ["user_id", "item_id", "timestamp", "position", "query"]
    assert events["user_id"].is_monotonic_increasing and len(events) == 60
    assert "SYNTHETIC" in (folder / "README.md").read_text()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["seed"], manifest["shares"]["searches"]) == (0, 0.3)
    assert manifest["counts"]["searches"] == events["query"].notna().sum()
    assert set(manifest["sources"]) == {"amazon_beauty/interactions.parquet", "amazon_beauty/items.parquet"}

    written = (folder / "events.parquet").stat().st_mtime_ns
    assert run(source, out) == 0 and (folder / "events.parquet").stat().st_mtime_ns == written
    assert run(source, out, "--seed", "1") == 1
    assert "made otherwise (seed 0)" in capsys.readouterr().err
    assert run(source, out, "--seed", "1", "--again") == 0
    assert not pd.read_parquet(folder / "events.parquet").equals(events)
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 1
    assert search_logs.main(["search_beauty", "--out", str(out), "--check"]) == 0
    assert '"events": 60' in capsys.readouterr().out


def test_other_sources_are_another_log(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, tmp_path) == 0
    path = source / "amazon_beauty" / "interactions.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    assert run(source, tmp_path) == 1
    assert "made otherwise (sources" in capsys.readouterr().err


def test_films_are_searched_by_genre_and_title() -> None:
    films = pd.DataFrame({"item_id": range(40), "title": [f"The Lost City {n} (1990)" for n in range(40)]})
    films = films.assign(genres=["Sci-Fi|Drama", "Children's"] * 20, decade=1990)
    ratings = pd.DataFrame({"user_id": 1, "item_id": np.arange(4000) % 40, "timestamp": range(4000)})
    made = search_logs.films({"items": films, "events": ratings}, seed=0)
    words = {word for query in made.events["query"].dropna() for word in query.split()}
    assert words == {"lost", "city", "scifi", "drama", "childrens"}
    assert within(made.events["query"].notna().mean(), 0.3, 4000)
    assert made.items["text"][1] == "The Lost City 1 Childrens"


def test_facts_are_only_of_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search_logs.main(["search_beauty", "--out", str(tmp_path), "--check"])
    assert "no search_beauty in" in capsys.readouterr().err


def test_a_run_that_dies_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, tmp_path / "out") == 1
    assert "interactions.parquet is missing" in capsys.readouterr().err
    monkeypatch.delenv("RECSYS_DATA", raising=False)
    assert search_logs.main(["search_beauty", "--out", str(tmp_path / "out")]) == 1
    assert "set RECSYS_DATA" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        search_logs.main(["search_everything"])
    assert "no search log search_everything" in capsys.readouterr().err
