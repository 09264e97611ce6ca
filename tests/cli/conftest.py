"""A finished run, made without training: an untrained network beside popularity."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.tasks import tasks_of
from recsys.features.catalogue import Catalogue
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.artefact import save_model
from recsys.models.lexical import LexicalBM25
from recsys.models.popularity import Popularity
from recsys.models.synergen import SynerGen
from recsys.tracking.bundle import Bundle
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.usage import Work

LENGTH = 4  # of what the network reads; histories are longer


def make_run(folder: Path, seed: int = 0, refit: bool = False) -> RunFolder:
    """Prepared log, record, model and evaluations under `folder`."""
    random = np.random.default_rng(0)
    users = np.repeat([f"u{number}" for number in range(30)], random.integers(5, 12, 30))
    events = pd.DataFrame({"user_id": users, "item_id": random.integers(100, 125, len(users))})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    items = pd.DataFrame({"item_id": np.arange(100, 125), "name": [f"Item [{n}]" for n in range(100, 125)]})
    cache = folder / "cache"
    log = prepare(Schema(name="toy", title="name"), events, items, cache_dir=cache)
    rule = LeaveLastOut(refit=refit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = rule(log)
    torch.manual_seed(seed)
    model = SynerGen(Catalogue.from_split(split, LENGTH), width=8, layers=1, heads=2).eval()
    popularity = Popularity()
    popularity.fit(split)
    run = RunFolder(folder / "run")
    record = RunRecord.of("toy", "SynerGen", {"seed": seed}, split, rule, cache / log.fingerprint, {"everything": seed})
    record.measure(Work())
    record.status = "finished"
    record.write(run.path)
    Bundle.of(model, log, split.hash, LENGTH).save(run.model)
    evaluate(model, split, ks=(5, 10), max_length=LENGTH, top=20).save(run.evaluation("SynerGen"))
    evaluate(popularity, split, ks=(5, 10), top=20).save(run.evaluation("Popularity"))
    return run


WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil", "balm"])


def make_search_run(folder: Path) -> RunFolder:
    """A run on a log with queries: an untrained network that searches and ranks, and the lexical baseline."""
    random = np.random.default_rng(0)
    users = np.repeat([f"u{number}" for number in range(40)], random.integers(5, 12, 40))
    events = pd.DataFrame({"user_id": users, "item_id": random.integers(100, 140, len(users))})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    asked = random.random(len(events)) < 0.5
    events["query"] = pd.Series(WORDS[random.integers(0, len(WORDS), len(events))]).where(asked)
    items = pd.DataFrame({"item_id": np.arange(100, 140)})
    items["name"] = [" ".join(random.choice(WORDS, 3, replace=False)) for _ in range(40)]
    schema = Schema.parse(
        {
            "name": "toy search",
            "title": "name",
            "events": {"query": "query"},
            "features": [
                {"name": "words", "column": "name", "type": "text"},
                {"name": "asked", "type": "text", "entity": "query", "table": "words"},
            ],
        }
    )
    log = prepare(schema, events, items, cache_dir=folder / "cache")
    rule = LeaveLastOut()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = rule(log)
    torch.manual_seed(0)
    model = SynerGen(Catalogue.from_split(split, LENGTH), width=16, layers=1, heads=2, ranking=True).eval()
    lexical = LexicalBM25()
    lexical.fit(split)
    run = RunFolder(folder / "run")
    record = RunRecord.of("toy", "SynerGen", {}, split, rule, folder / "cache" / log.fingerprint, {"everything": 0})
    record.measure(Work())
    record.status = "finished"
    record.write(run.path)
    Bundle.of(model, log, split.hash, LENGTH).save(run.model)
    save_model(lexical, run.lexical)
    for task in tasks_of(split):
        settings = {"task": task, "ks": (5, 10), "top": 20}
        for judged in (
            evaluate(model, split, max_length=LENGTH, **settings),
            evaluate(model, split, max_length=LENGTH, rerank=30, name="SynerGen-ranked", **settings),
            evaluate(lexical, split, **settings),
        ):
            run.save_evaluation(judged)
    return run


@pytest.fixture(scope="session")
def search_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that answers queries, to look at."""
    return make_search_run(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run to look at; tests that write take `run`."""
    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the run that may be changed."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")
