"""Words and runs of characters against loops over the texts."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.encoders import build_encoders, frequent_values
from recsys.features.raw_values import jagged_column
from recsys.features.schema import Feature, Schema
from recsys.features.text import character_runs, text_values
from recsys.features.vocabulary import HashBuckets

LETTERS = "abÉ一é𠮷ß7"
TEXTS = st.lists(st.none() | st.text(st.sampled_from(LETTERS + " -!<>#"), max_size=14), min_size=1, max_size=6)
SIZES = st.tuples(st.integers(1, 4), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def feature(**more: object) -> Feature:
    return Feature.model_validate({"name": "words", "column": "text", "type": "text"} | more)


def runs_of(word: str, shortest: int, longest: int) -> list[str]:
    marked = f"<{word}>"
    found = [marked[at : at + size] for size in range(shortest, longest + 1) for at in range(len(marked) - size + 1)]
    return [f"#{run}" for run in found if run not in ("<", ">")]


def tokens(text: str | None, characters: tuple[int, int] | None) -> list[str]:
    words = re.findall(r"[^\W_]+", (text or "").lower())
    return words + [run for word in words if characters for run in runs_of(word, *characters)]


@settings(deadline=None)
@given(TEXTS, st.none() | SIZES)
def test_texts_equal_a_loop(texts: list[str | None], characters: tuple[int, int] | None) -> None:
    ids = np.arange(1, len(texts) + 1) * 3
    raw = text_values(feature(characters=characters), ids, pa.array(texts, pa.string()))
    expected = [(i, token) for i, text in zip(ids.tolist(), texts, strict=True) for token in tokens(text, characters)]
    assert list(zip(raw.ids.tolist(), raw.distinct[raw.at].tolist(), strict=True)) == expected
    assert raw.distinct.is_unique


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from(LETTERS), min_size=1, max_size=9), unique=True, max_size=5), SIZES)
def test_runs_equal_a_loop_and_are_no_words(words: list[str], sizes: tuple[int, int]) -> None:
    runs, column = character_runs(pd.Index(words, dtype="str"), *sizes)
    assert [runs[column.row(at)].tolist() for at in range(len(column))] == [runs_of(word, *sizes) for word in words]
    assert runs.is_unique and not set(runs) & set(words)


def test_a_hash_table_is_the_classic_bag_and_words_are_cut_last() -> None:
    hashed = feature(characters=[3, 4], max_values=7)
    raw = text_values(hashed, np.array([1, 2]), pa.array(["Red hat", "tv"]))
    column, dropped, cut = jagged_column(raw, HashBuckets(97), 2)
    bags = [tokens(text, (3, 4)) for text in ("red hat", "tv")]
    assert [column.row(at).tolist() for at in (1, 2)] == [HashBuckets(97).encode(bag[:7]).tolist() for bag in bags]
    assert column.row(1).tolist()[:2] == HashBuckets(97).encode(["red", "hat"]).tolist()
    assert (dropped, cut) == (0, len(bags[0]) - 7)


def raw_of(texts: list[str], copies: list[int] | None = None, **more: object):
    raw = text_values(feature(**more), np.arange(1, len(texts) + 1), pa.array(texts))
    return raw if copies is None else type(raw)(**vars(raw) | {"copies": np.array([0, *copies])})


def test_rare_words_are_counted_over_all_texts_of_a_table() -> None:
    title = raw_of(["red shoe", "blue shoe lace"])
    about = raw_of(["red red sole", "lace"], name="about", characters=[3, 3])
    asked = raw_of(["sole", "tie", "blue hat"], [1, 5, 1], name="asked", entity="query", column="")
    texts_of = {
        ("item", 1): "red shoe red red sole",
        ("item", 2): "blue shoe lace lace",
        ("query", 1): "sole",
        ("query", 2): "tie",
        ("query", 3): "blue hat",
    }
    count: Counter[str] = Counter()
    for (entity, number), text in texts_of.items():
        count.update({word: 5 if (entity, number) == ("query", 2) else 1 for word in set(text.split())})
    whole = {word for word in frequent_values([title, about, asked], 2) if not word.startswith("#")}
    assert whole == {word for word, n in count.items() if n >= 2} == {"shoe", "sole", "tie", "blue"}
    runs = [word for word in frequent_values([title, about], 2) if word.startswith("#")]
    assert not runs  # `red`, `sole` and `lace` stand in one item each, and so do their runs


def test_words_and_categories_share_a_table() -> None:
    features = [
        {"name": "title", "column": "t", "type": "text", "table": "names"},
        {"name": "brand", "column": "b", "type": "categorical", "table": "names"},
    ]
    schema = Schema.parse({"name": "toy", "features": features})
    texts = raw_of(["acme shoe", "acme hat"], name="title", table="names")
    brands = raw_of(["zed"], name="brand", type="categorical", table="names")
    encoders = build_encoders(schema, [texts, brands])
    assert encoders["names"].values.tolist() == ["acme", "zed"]  # type: ignore[attr-defined]
