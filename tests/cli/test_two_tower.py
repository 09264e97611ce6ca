"""The recipes of two towers on a small log with users, features and queries: trained, judged, planned and asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recsys.cli import plan, recommend
from recsys.cli.fit import with_recipe_paths
from recsys.cli.fit_job import FitCLI, run
from recsys.features.feature_correlation import feature_correlation
from recsys.models.artefact import load_model
from recsys.models.two_tower import TwoTower
from recsys.tracking.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore")

RECIPES = ("two_tower", "two_tower_masked")
USERS, ITEMS = 40, 30
WORDS = ["red", "blue", "soap", "oil"]
SCHEMA = {
    "name": "shop",
    "title": "title",
    "events": {"query": "query"},
    "user_table": {},
    "features": [
        {"name": "brand", "column": "brand", "type": "categorical"},
        {"name": "maker", "column": "maker", "type": "categorical"},
        {"name": "words", "column": "title", "type": "text", "table": "words"},
        {"name": "asked", "type": "text", "entity": "query", "table": "words"},
        {"name": "country", "column": "country", "type": "categorical", "entity": "user"},
    ],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, and a run of each recipe on it."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    users = np.repeat([f"u{number}" for number in range(USERS)], random.integers(5, 9, USERS))
    events = pd.DataFrame({"user_id": users, "item_id": random.integers(100, 100 + ITEMS, len(users))})
    events["timestamp"] = 1_500_000_000 + 60 * np.arange(len(events))
    events["query"] = pd.Series(random.choice(WORDS, len(events))).where(random.random(len(events)) < 0.4)
    events.to_parquet(folder / "events.parquet")
    items = pd.DataFrame({"item_id": 100 + np.arange(ITEMS), "brand": random.choice(["a", "b", "c"], ITEMS)})
    items["maker"] = items["brand"].str.upper()
    items["title"] = [" ".join(random.choice(WORDS, 2, replace=False)) for _ in range(ITEMS)]
    items.to_parquet(folder / "items.parquet")
    # u998 and u999 have no event; nothing is known of the latter.
    known = pd.DataFrame({"user_id": [f"u{number}" for number in [*range(USERS), 998, 999]]})
    known["country"] = [*(["nl", "no"] * (USERS // 2)), "nl", None]
    known.to_parquet(folder / "users.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(SCHEMA))
    for name in RECIPES:
        run(FitCLI(with_recipe_paths(arguments(name, folder))))
    return folder


def arguments(recipe: str, folder: Path) -> list[str]:
    return [
        *("--config", recipe, f"--job.folder={folder / recipe}", "--job.track=false"),
        f"--data.schema={folder / 'schema.yaml'}",
        *(f"--data.{name}={folder / name}.parquet" for name in ("events", "items", "users")),
        *(f"--data.cache={folder / 'cache'}", "--data.split=recsys.features.splits.LeaveLastOut"),
        "--job.baselines=[{class_path: recsys.models.popularity.Popularity}]",
        *("--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
    ]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert recommend.main([*words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def raw(answer: dict[str, Any]) -> list[int]:
    return [item["item"] for item in answer["recommendations"]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_leaves_a_model_and_what_it_is_worth(shop: Path, recipe: str) -> None:
    folder = RunFolder(shop / recipe)
    assert folder.record.status == "finished" and folder.record.model == "TwoTower"
    assert {evaluation.model for evaluation in folder.evaluations()} == {"TwoTower", "Popularity"}
    network = load_model(folder.model)
    assert isinstance(network, TwoTower) and network.searches and network.users is not None
    assert network.items.maskable == (recipe == "two_tower_masked")


def test_a_run_that_masks_by_correlation_shows_it(shop: Path) -> None:
    assert (shop / "two_tower_masked/plots/feature_information.png").exists()
    assert not (shop / "two_tower/plots/feature_information.png").exists()
    height, width, _ = matplotlib.image.imread(shop / "two_tower_masked/plots/feature_information.png").shape
    assert min(height, width) > 300
    model = load_model(shop / "two_tower_masked/model")
    assert isinstance(model, TwoTower)
    found = feature_correlation(model.catalogue)  # which the run had, too
    assert found.nmi[found.names.index("brand"), found.names.index("maker")] == pytest.approx(1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_users_are_recommended_what_the_vectors_say(
    shop: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the cosines of the towers; a user of the log by id, country and history."""
    folder = RunFolder(shop / recipe)
    answers = ask(capsys, str(folder.path), "--user", "u3", "--user", "u4", "--k", "5")
    log, model = folder.log(), load_model(folder.model)
    assert isinstance(model, TwoTower) and model.users is not None
    items = log.to_frame().groupby("user_id")["item_id"].agg(list)
    with torch.no_grad():
        every = model.match(model.items(torch.arange(1, model.n_items + 1)))
        for answer in answers:
            ids = torch.from_numpy(log.items.encode(items[answer["user"]]))
            (user,) = log.users.encode([answer["user"]])
            x = model.history_map(model.items.encoder(ids).mean(0)) + model.users(torch.tensor([user]))[0]
            cosines = every @ model.match(model.user_tower(x))
            cosines[ids - 1] = -1
            best, scores = cosines.topk(5), [item["score"] for item in answer["recommendations"]]
            assert raw(answer) == log.items.decode((best.indices + 1).numpy()).tolist()
            assert scores == pytest.approx(best.values.tolist(), abs=1e-5)


def test_a_search_changes_the_list_and_a_history_can_be_typed(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(shop / "two_tower")
    (plain,), (red,), (oil,) = (
        ask(capsys, place, "--user", "u3", *more) for more in ([], ["--query", "red"], ["--query", "oil"])
    )
    assert len({tuple(raw(answer)) for answer in (plain, red, oil)}) == 3
    (typed,) = ask(capsys, place, "--items", "101", "110")
    assert len(raw(typed)) == 10 and not {101, 110} & set(raw(typed))
    (stranger,) = ask(capsys, place, "--user", "nobody", "--k", "5")
    model = load_model(shop / "two_tower/model")
    counts, items = model.catalogue.counts, RunFolder(shop / "two_tower").log().items  # type: ignore[attr-defined]
    assert counts[items.encode(raw(stranger))].tolist() == sorted(counts[1:].tolist(), reverse=True)[:5]


@pytest.mark.parametrize("recipe", RECIPES)
def test_tables_of_both_towers_are_planned(shop: Path, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = with_recipe_paths(arguments(recipe, shop))
    optimizer = "--model.table_optimizer=recsys.training.row_wise_adagrad.RowWiseAdagrad"
    assert plan.main([*job, optimizer, "--ranks", "2", "--rows", "user_id=1e6", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert {row["table"] for row in tables} == {"item_id", "brand", "maker", "words", "user_id", "country"}
    assert {(row["rows"], row["dim"]) for row in tables if row["table"] == "user_id"} == {(1_000_000, 64)}
