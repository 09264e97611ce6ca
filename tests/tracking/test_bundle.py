"""A model with what serving needs: complete after a round trip, and asked in the way it was trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime
from recsys.models.artefact import ArtefactError, save_model
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.models.popularity import Popularity
from recsys.models.synergen import SynerGen
from recsys.models.two_tower import TwoTower
from recsys.tracking.bundle import Bundle, History, QueryError, UserError, usual_gap

EVENTS = [(0, 30, 100), (0, 31, 110), (0, 30, 150), (1, 32, 90), (2, 31, 10), (2, 33, 70), (2, 34, 95), (2, 30, 400)]


@pytest.fixture
def log() -> EventLog:
    items = pd.DataFrame({"item_id": [30, 31, 32, 33], "name": ["A", "B", "C", None]})
    frame = pd.DataFrame(EVENTS, columns=["user_id", "item_id", "timestamp"])
    return EventLog.from_frame(frame, Schema(name="toy", title="name"), items)


@pytest.fixture
def bundle(log: EventLog) -> Bundle:
    split = GlobalTime(0.2, 0.0)(log)
    model = Popularity()
    model.fit(split)
    return Bundle.of(model, log, split.hash, max_length=2)


def test_round_trip(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "model")
    again = Bundle.load(tmp_path / "model")
    for name in ("schema", "max_length", "gap", "fingerprint", "split_hash"):
        assert getattr(again, name) == getattr(bundle, name), name
    assert again.items.values.equals(bundle.items.values)
    assert [again.title(item) for item in range(1, 6)] == ["A", "B", "C", "33", "34"]
    asked = [bundle.history(np.array([1, 2]))]
    assert again.recommend(asked, 3).items.equal(bundle.recommend(asked, 3).items)


def test_raw_ids_stand_for_titles_that_are_not_there(bundle: Bundle, tmp_path: Path) -> None:
    Bundle(**{**vars(bundle), "titles": None}).save(tmp_path / "model")
    again = Bundle.load(tmp_path / "model")
    assert again.titles is None and again.title(1) == "30"


def test_altered_and_incomplete_folders_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    bundle.save(tmp_path / "model")
    (tmp_path / "model" / "serving.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"serving.json: altered"):
        Bundle.load(tmp_path / "model")
    save_model(bundle.model, tmp_path / "bare")
    with pytest.raises(ArtefactError, match=r"serving.json: missing"):
        Bundle.load(tmp_path / "bare")


def test_gap_is_the_median_between_events_of_one_user(log: EventLog) -> None:
    gaps = [10, 40, 60, 25, 305]  # within users 0 and 2; never from one user to the next
    assert usual_gap(log) == int(np.median(gaps))
    alone = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 1], "timestamp": [5, 9]})
    assert usual_gap(EventLog.from_frame(alone, Schema(name="toy"))) == 0


def test_histories(log: EventLog, bundle: Bundle) -> None:
    user = int(log.users.encode([2])[0])
    history = History.of_user(log, user)
    assert log.items.decode(history.items).tolist() == [31, 33, 34, 30]
    assert history.times.tolist() == [10, 70, 95, 400] and history.user == user
    nobody = History.of_user(log, 0)
    assert len(nobody.items) == len(nobody.times) == 0
    typed = bundle.history(np.array([3, 1]))
    assert np.diff(typed.times).tolist() == [bundle.gap] and typed.user == 0


def test_model_reads_the_newest_events_and_the_filter_knows_all(bundle: Bundle, log: EventLog) -> None:
    spy = Spy()
    spy.tensors = bundle.model.state()
    asked = Bundle(**{**vars(bundle), "model": spy})
    long, empty = History.of_user(log, int(log.users.encode([2])[0])), History.of_user(log, 0)
    answer = asked.recommend([long, empty], 5)
    assert spy.batch.lengths.tolist() == [2, 0]
    assert spy.batch.item_id.tolist() == long.items[-2:].tolist()
    assert spy.batch.timestamp.tolist() == long.times[-2:].tolist()
    assert answer.items[0].tolist() == [*log.items.encode([32]), 0, 0, 0, 0]  # all others were seen
    assert sorted(answer.items[1].tolist()) == [1, 2, 3, 4, 5]
    assert len(set(asked.recommend([long], 5, filter_seen=False).items[0].tolist()) - {0}) == 5


class Spy(Popularity):
    """Keeps what it was asked."""

    def user_vectors(self, batch):
        self.batch = batch
        return super().user_vectors(batch)


ASKED = ["tea pot", None, "red tea", None, "pot", "red tea", "", "black tea pot"]


@pytest.fixture
def searched() -> EventLog:
    frame = pd.DataFrame(EVENTS, columns=["user_id", "item_id", "timestamp"])
    frame = frame.assign(asked=ASKED, act=["view", "buy", None, "view", "buy", "buy", "view", "buy"])
    features = [
        {"name": "words", "type": "text", "entity": "query"},
        {"name": "runs", "type": "text", "entity": "query", "characters": [3, 3], "table": "hashed"},
    ]
    schema = {"name": "toy", "events": {"query": "asked", "action": "act"}, "features": features}
    return EventLog.from_frame(
        frame, Schema.parse(schema | {"tables": {"hashed": {"encoding": "hash", "buckets": 40}}})
    )


def spied(log: EventLog, folder: Path) -> Bundle:
    """A bundle that was saved and read again."""
    split = GlobalTime(0.2, 0.0)(log)
    model = Popularity()
    model.fit(split)
    Bundle.of(model, log, split.hash, max_length=3).save(folder)
    loaded = Bundle.load(folder)
    spy = Spy()
    spy.tensors = loaded.model.state()
    return Bundle(**{**vars(loaded), "model": spy})


def words(bundle: Bundle, batch, row: int) -> list[str]:
    values, offsets = batch.queries.jagged["words"]
    return bundle.queries.encoders["words"].decode(values[offsets[row] : offsets[row + 1]].numpy()).tolist()


def test_queries_and_actions_reach_the_model_without_the_log(searched: EventLog, tmp_path: Path) -> None:
    bundle = spied(searched, tmp_path / "model")
    assert (tmp_path / "model" / "vocabulary.words.parquet").is_file()
    assert not (tmp_path / "model" / "vocabulary.hashed.parquet").exists()
    history = History.of_user(searched, int(searched.users.encode([2])[0]))
    assert history.queries == ["pot", "red tea", None, "black tea pot"]
    assert searched.vocabularies["action"].decode(history.actions).tolist() == ["buy", "buy", "view", "buy"]
    typed = bundle.history(np.array([2]))
    bundle.recommend([history, typed], 3, queries=["never asked red pot", None])
    batch = bundle.model.batch
    assert batch.features["action"].values().tolist() == [*history.actions[-3:].tolist(), 0]
    assert batch.features["action"].lengths().tolist() == batch.lengths.tolist() == [3, 1]
    assert [words(bundle, batch, row) for row in batch.query.tolist()] == [["red", "tea"], [], ["tea", "pot"], []]
    assert [words(bundle, batch, row) for row in batch.request_query.tolist()] == [["red", "pot"], []]
    assert batch.request_query.tolist()[1] == batch.query.tolist()[1] == 0
    code = int(searched.vocabularies["query"].encode(["red tea"])[0])
    values, offsets = batch.queries.jagged["runs"]
    row = int(batch.query[0])
    assert values[offsets[row] : offsets[row + 1]].tolist() == searched.query_features["runs"].row(code).tolist()
    bundle.recommend([history], 3)
    assert bundle.model.batch.request_query is None and bundle.model.batch.query.tolist()[1] == 0


def test_queries_need_a_reader_and_a_history_each(bundle: Bundle, searched: EventLog, tmp_path: Path) -> None:
    asked = [bundle.history(np.array([1]))]
    assert bundle.queries is None and bundle.batch(asked).queries is None
    assert bundle.batch(asked, [None]).request_query is None
    with pytest.raises(QueryError, match="entity: query"):
        bundle.recommend(asked, 3, queries=["tea"])
    with pytest.raises(ValueError, match="1 histories need as many queries"):
        spied(searched, tmp_path / "model").recommend(asked, 3, queries=["tea", "pot"])


def test_a_missing_vocabulary_is_named(searched: EventLog, tmp_path: Path) -> None:
    spied(searched, tmp_path / "model")
    manifest = tmp_path / "model" / "manifest.json"
    files = json.loads(manifest.read_text())
    del files["files"]["vocabulary.words.parquet"]
    manifest.write_text(json.dumps(files))
    (tmp_path / "model" / "vocabulary.words.parquet").unlink()
    with pytest.raises(ArtefactError, match=r"vocabulary.words.parquet: missing"):
        Bundle.load(tmp_path / "model")


USERS = "vocabulary.user_id.parquet"


def saved(model, log: EventLog, folder: Path) -> Bundle:
    Bundle.of(model.eval(), log, "split").save(folder)
    return Bundle.load(folder)


@pytest.fixture
def of_pairs(log: EventLog) -> MatrixFactorization:
    """Of the three users, training knows two."""
    catalogue = Catalogue.from_split(GlobalTime(0.2, 0.0)(log), interactions=True)
    values, offsets = catalogue.user_jagged["user_id"]
    assert values.tolist() == [1, 2, 3]
    lone = {"user_id": (values[:2], offsets.clamp(max=2))}
    return MatrixFactorization(Catalogue(**{**vars(catalogue), "user_jagged": lone}), width=4)


def test_names_of_users_go_with_a_model_that_knows_them(
    of_pairs: MatrixFactorization, log: EventLog, tmp_path: Path
) -> None:
    bundle = saved(of_pairs, log, tmp_path / "model")
    assert USERS in json.loads((tmp_path / "model" / "manifest.json").read_text())["files"]
    assert bundle.users.values.equals(log.users.values)
    nothing = np.zeros(0, dtype=np.int64)
    asked = [bundle.history(nothing, user) for user in (0, 1, 2, 77, None)]
    assert [history.user for history in asked] == [1, 2, 3, 0, 0]
    assert [bundle.knows(history) for history in asked] == [True, True, False, False, False]
    answers = bundle.recommend(asked, 5)
    with torch.no_grad():
        users, items = of_pairs.encode(torch.tensor([1, 2]), torch.arange(1, 6))
    assert answers.items[:2].tolist() == ((users @ items.T).argsort(descending=True) + 1).tolist()
    popular = of_pairs.catalogue.counts[answers.items[2:]]
    assert popular.tolist() == [sorted(of_pairs.catalogue.counts[1:].tolist(), reverse=True)] * 3
    had = bundle.history(np.array([2, 3]), 1)
    assert not {2, 3} & set(bundle.recommend([had], 5).items[0].tolist())
    (tmp_path / "model" / USERS).write_bytes(b"")
    with pytest.raises(ArtefactError, match="altered"):
        Bundle.load(tmp_path / "model")


def test_bundles_saved_without_names_still_load(of_pairs: MatrixFactorization, log: EventLog, tmp_path: Path) -> None:
    whole = Bundle.of(of_pairs, log, "split")
    Bundle(**{**vars(whole), "users": None}).save(tmp_path / "model")
    old = Bundle.load(tmp_path / "model")
    assert not (tmp_path / "model" / USERS).exists() and old.users is None
    of_log = History.of_user(log, 1)  # a log names its users itself
    assert old.recommend([of_log], 3).items.equal(whole.recommend([of_log], 3).items)
    with pytest.raises(UserError, match="user `1`: the bundle has no names of users"):
        old.history(np.array([1]), 1)


def test_no_names_go_with_a_model_that_knows_nobody(bundle: Bundle, log: EventLog, tmp_path: Path) -> None:
    catalogue = Catalogue.from_split(GlobalTime(0.2, 0.0)(log))
    with_table = EventLog.from_frame(
        pd.DataFrame(EVENTS, columns=["user_id", "item_id", "timestamp"]), Schema(name="toy", user_table={})
    )
    told = Catalogue.from_split(GlobalTime(0.2, 0.0)(with_table))
    assert len(told.user_jagged["user_id"][0])
    models = {
        "popularity": (bundle.model, log),
        "synergen": (SynerGen(told, width=8, layers=1, heads=2), with_table),
        "towers": (TwoTower(catalogue, width=4, hidden=[4], dim=4), log),
        "blind": (TwoTower(told, width=4, hidden=[4], dim=4, user_features=False), with_table),
    }
    for name, (model, of) in models.items():
        found = Bundle.of(model, of, "split")
        found.save(tmp_path / name)
        assert found.users is None and not (tmp_path / name / USERS).exists(), name
    towers = saved(TwoTower(told, width=4, hidden=[4], dim=4), with_table, tmp_path / "telling")
    assert towers.users.values.equals(with_table.users.values)
    assert towers.history(np.array([1]), 2).user == 3 and towers.knows(towers.history(np.array([1]), 2))
