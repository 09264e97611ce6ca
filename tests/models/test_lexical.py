from __future__ import annotations

import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from bm25s import BM25

from recsys.features.batch import SequenceBatch
from recsys.features.batching import histories
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.artefact import load_model, save_model
from recsys.models.lexical import LexicalBM25

ITEMS = 60
WORDS = [f"word{chr(97 + n)}" for n in range(20)]
FEATURES = [
    {"name": "words", "column": "text", "type": "text"},
    {"name": "query_words", "type": "text", "entity": "query", "table": "words"},
]


def split_of(features: list[dict[str, str]], events: pd.DataFrame, items: pd.DataFrame) -> Split:
    schema = Schema.model_validate({"name": "shop", "events": {"query": "query"}, "features": features})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LeaveLastOut()(EventLog.from_frame(events, schema, items))


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Texts of 0 to 11 words with repeats; queries of 1 to 4 words with repeats, and one of unknown words."""
    random = np.random.default_rng(0)
    items = pd.DataFrame({"item_id": range(ITEMS)})
    items["text"] = [" ".join(random.choice(WORDS, n)) for n in random.integers(0, 12, ITEMS)]
    items["brand"] = random.choice(WORDS, ITEMS)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(40), 6), "item_id": random.integers(0, ITEMS, 240)})
    events = pd.concat([events, pd.DataFrame({"user_id": 40, "item_id": range(ITEMS)})], ignore_index=True)
    events["timestamp"] = range(len(events))
    events["query"] = [" ".join(random.choice(WORDS, n)) or None for n in random.integers(0, 5, len(events))]
    events.loc[0, "query"] = "nothing"
    return events, items


@pytest.fixture(scope="module")
def split(tables: tuple[pd.DataFrame, pd.DataFrame]) -> Split:
    return split_of(FEATURES, *tables)


def searches(split: Split, query: np.ndarray | None = None) -> tuple[SequenceBatch, list[str]]:
    """A user for each query of the log, or for the given codes; user 1 asks for all."""
    codes = np.arange(1, len(split.log.encoders["query"]) + 1) if query is None else query  # type: ignore[arg-type]
    users, nothing = np.ones_like(codes), np.zeros_like(codes)
    texts = split.log.vocabularies["query"].decode(codes[codes > 0])
    return histories(split.log, users, nothing, nothing + 2, request_query=codes), list(texts)


def documents(split: Split, *features: str) -> list[list[str]]:
    """The words of the items 1..n, as the log keeps them."""
    words = split.log.vocabularies["words"]
    rows = [[split.log.item_features[name].row(item) for name in features] for item in range(1, ITEMS + 1)]
    return [words.decode(np.concatenate(row)).tolist() for row in rows]


def closed_form(query: list[str], texts: list[list[str]], k1: float, b: float) -> np.ndarray:
    """BM25 with Lucene's idf, a loop over words and texts."""
    average = sum(map(len, texts)) / len(texts)
    score = np.zeros(len(texts))
    for word in query:
        frequency = sum(word in text for text in texts)
        idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
        for place, text in enumerate(texts):
            count = text.count(word)
            score[place] += idf * count / (count + k1 * (1 - b + b * len(text) / average))
    return score


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.2)])
def test_scores_are_those_of_the_library_and_of_the_closed_form(split: Split, k1: float, b: float) -> None:
    model = LexicalBM25(k1, b)
    model.fit(split)
    batch, queries = searches(split)
    scores = model.scores(batch)[:, 1:].numpy()
    texts = documents(split, "words")
    library = BM25(k1=k1, b=b)
    library.index(texts, show_progress=False)
    matched = 0
    for row, query in zip(scores, queries, strict=True):
        words = query.split()
        expected = closed_form(words, texts, k1, b)
        found = expected > 0
        np.testing.assert_allclose(row[found], expected[found], rtol=1e-5)
        np.testing.assert_allclose(row[found], library.get_scores(words)[found], rtol=1e-5)
        assert (row[~found] < 0).all()
        matched += found.sum()
    assert len(queries) > 100 and matched > 1000


def test_the_words_of_all_features_on_the_table_are_one_text(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    brand = {"name": "brand", "column": "brand", "type": "categorical", "table": "words"}
    split = split_of([*FEATURES, brand], *tables)
    assert split.log.schema.shared_words() == {"query_words": ["words", "brand"]}
    model = LexicalBM25()
    model.fit(split)
    batch, queries = searches(split)
    scores, texts = model.scores(batch)[:, 1:].numpy(), documents(split, "words", "brand")
    for row, query in zip(scores, queries, strict=True):
        expected = closed_form(query.split(), texts, 1.5, 0.75)
        np.testing.assert_allclose(row[expected > 0], expected[expected > 0], rtol=1e-5)


def test_without_a_match_items_follow_by_popularity(split: Split) -> None:
    model = LexicalBM25(prior=0.5)
    model.fit(split)
    unknown = int(split.log.vocabularies["query"].encode(["nothing"])[0])
    counts = torch.from_numpy(split.train_counts())[1:].float()
    batch, _ = searches(split, np.array([0, unknown, 5]))
    scores = model.scores(batch)
    recommended = model.scores(replace(batch, request_query=None))
    assert (scores[:, 0] == -torch.inf).all()
    assert torch.equal(recommended[0], scores[0]) and torch.equal(recommended[2], scores[0])
    for row in scores[:2, 1:]:
        assert torch.equal(row.sort().values, row[counts.argsort(stable=True)]) and (row < 0).all()
    rest = scores[2, 1:] < 0
    assert rest.any() and not rest.all()
    torch.testing.assert_close(scores[2, 1:][rest], scores[0, 1:][rest])


def test_the_prior_decides_between_items_of_equal_words(split: Split) -> None:
    plain, prior = LexicalBM25(), LexicalBM25(prior=0.25)
    plain.fit(split)
    prior.fit(split)
    batch, _ = searches(split)
    counts = torch.from_numpy(split.train_counts()).float()
    without, with_prior = plain.scores(batch), prior.scores(batch)
    match = without > 0
    expected = without + 0.25 * torch.log(1 + counts)
    torch.testing.assert_close(with_prior[match], expected[match])
    torch.testing.assert_close(with_prior[~match], without[~match])
    with pytest.raises(ValueError, match="prior must not be negative"):
        LexicalBM25(prior=-1)


def test_a_saved_model_needs_no_library(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LexicalBM25(prior=0.1)
    model.fit(split)
    save_model(model, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    loaded = load_model(tmp_path / "model")
    batch, _ = searches(split)
    assert torch.equal(loaded.scores(batch), model.scores(batch))
    candidates = torch.randint(0, ITEMS + 1, (len(batch), 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.candidate_scores(batch, candidates), model.scores(batch).gather(1, candidates))


def test_queries_that_share_no_table_are_refused(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    split = split_of([FEATURES[0], FEATURES[1] | {"table": "asked"}], *tables)
    with pytest.raises(ValueError, match="query feature `query_words` shares no table"):
        LexicalBM25().fit(split)
