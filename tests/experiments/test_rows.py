from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from _row import (
    BASELINES,
    DATASETS,
    RANDOM_BASELINES,
    SEARCH_BASELINES,
    SEARCH_DATASETS,
    SPLITS,
    STRICT,
)
from _rows import rows, selected
from _runs import Run

from recsys.evaluation.baselines import baselines
from recsys.features.catalogue import Catalogue
from recsys.features.datasets import load_dataset
from recsys.features.event_log import EventLog
from recsys.features.splits import LeaveLastOut

ROOT = Path(__file__).parents[2]


def classes(node: Any) -> Iterator[dict[str, Any]]:
    """Every `class_path` with its `init_args` in nested settings."""
    if isinstance(node, dict):
        if "class_path" in node:
            yield node
        for value in node.values():
            yield from classes(value)
    elif isinstance(node, list):
        for value in node:
            yield from classes(value)


def test_names_are_unique_and_every_table_has_models_and_baselines():
    table = rows()
    assert len({row.name for row in table}) == len(table)
    for dataset in DATASETS:
        for protocol in SPLITS:
            models = {row.model for row in selected(dataset, protocol)}
            assert models >= {"synergen", "synergen_id", *BASELINES}


def test_baselines_are_those_of_the_library_and_random_ones_have_three_seeds():
    declared = {type(model).__name__: model for model in baselines()}
    assert set(BASELINES.values()) == set(declared)
    for row in rows():
        if row.is_baseline and not row.searches:
            draws = hasattr(declared[BASELINES[row.model]], "seed")
            assert draws == (row.model in RANDOM_BASELINES)
            assert len(row.seeds) == (3 if draws else 1)


def test_every_class_of_a_row_exists_and_takes_its_arguments():
    found = [node for row in rows() for node in classes(dict(row.settings))] + list(classes(SPLITS))
    assert len(found) > 30
    for node in found:
        module, _, name = node["class_path"].rpartition(".")
        taken = inspect.signature(getattr(importlib.import_module(module), name))
        given = {"catalogue"} & set(taken.parameters)  # by the training job, to a network
        taken.bind(**dict.fromkeys([*node.get("init_args", {}), *given]))


@pytest.mark.parametrize("dataset", SEARCH_DATASETS)
def test_tables_of_search_logs_begin_with_the_joint_model_and_what_it_is_compared_with(dataset):
    table = selected(dataset)
    assert {row.protocol for row in table} == {STRICT}
    names = [row.model for row in table]
    declared = ("query_only", "history_only", "recommendation_only")
    controls = [name for name in declared if name in names]
    first = ["synergen", *controls, *SEARCH_BASELINES]
    assert names[: len(first)] == first
    assert bool(controls) == (dataset != "search_sports")
    whole = table[0]
    assert whole.settings == {}, "it is the recipe"
    assert list(whole.against) == controls
    ablations = names[len(first) :]
    assert ablations[:1] == (["small"] if dataset == "search_beauty" else [])
    for row in table[len(first) :]:
        assert row.against == (tuple(ablations[1:]) if row.model == "small" else ())
    assert all(row.note for row in table if not row.is_baseline)
    assert all(row.settings for row in table if row is not whole and not row.is_baseline)
    assert not (dataset == "search_cellphones" and any(row.tasks == ("recommendation",) for row in table))


def test_baselines_of_search_logs_are_those_of_the_library_for_a_log_with_queries(word_split):
    declared = {type(model).__name__ for model in baselines(word_split)}
    assert set(SEARCH_BASELINES.values()) <= declared
    assert "LexicalBM25" not in BASELINES.values()


@pytest.mark.parametrize("dataset", (*DATASETS, *SEARCH_DATASETS))
def test_settings_name_what_the_recipe_can_hold(dataset):
    recipe = yaml.safe_load((ROOT / "experiments" / f"{dataset}.yaml").read_text())
    assert recipe["data"]["dataset"] == dataset
    network = recipe["model"]["network"]["class_path"].rpartition(".")
    known = inspect.signature(getattr(importlib.import_module(network[0]), network[2])).parameters
    for row in selected(dataset):
        for key in row.settings:
            if key.startswith("model.network.init_args."):
                assert key.rpartition(".")[2] in known


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A working folder with a tiny `search_beauty`."""
    folder = tmp_path_factory.mktemp("shop")
    random, words = np.random.default_rng(0), np.array(["red", "soap", "oil", "balm"])
    events = pd.DataFrame({"user_id": np.repeat(np.arange(20), 8), "item_id": random.permutation(160)})
    events["timestamp"] = events["position"] = np.arange(160)
    events["query"] = pd.Series(words[random.integers(0, 4, 160)]).where(random.random(160) < 0.5)
    items = pd.DataFrame({"item_id": range(160), "attributes": [["a"]] * 160})
    items["text_id"] = [" ".join(random.choice(words, 2)) for _ in range(160)]
    (folder / "search_beauty").mkdir()
    events.to_parquet(folder / "search_beauty" / "events.parquet")
    items.to_parquet(folder / "search_beauty" / "items.parquet")
    return folder


@pytest.fixture
def word_split(shop):
    source = load_dataset("search_beauty", shop)
    log = EventLog.from_frame(*(pd.read_parquet(source.events), source.schema), pd.read_parquet(source.items))
    with pytest.warns(UserWarning, match="leave_last_out"):
        return LeaveLastOut()(log)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "model",
    [
        "synergen", "query_only", "history_only", "recommendation_only", "pairwise", "no_word_match", "id_only",
        "rotary_rote",
    ],
)  # fmt: skip
def test_rows_of_search_logs_are_jobs_that_say_what_differs(model, shop, monkeypatch, tmp_path):
    """`recsys fit` takes the command of a row; the part that the row names differs from the recipe, and no other."""
    from recsys.cli.fit_job import FitCLI

    monkeypatch.chdir(shop)
    monkeypatch.setenv("RECSYS_DATA", str(shop))

    def parsed(name: str) -> FitCLI:
        (row,) = selected("search_beauty", STRICT, name)
        words = Run(row, 1, tmp_path).command(resume=False)
        words = words[words.index("fit") + 1 :]
        words[1] = str(ROOT / words[1])
        return FitCLI(args=words)

    (small,) = selected("search_beauty", STRICT, "small")
    ours, recipe = parsed(model), parsed("small" if model in small.against else "synergen")
    catalogue = Catalogue.from_split(ours.datamodule.split)
    network, plain = (cli.model.make_network(catalogue) for cli in (ours, recipe))
    objective = ours.model.objective
    assert type(network).__name__ == ("QueryOnly" if model == "query_only" else "SynerGen")
    differing = {k for k, v in network.hyperparameters.items() if v != plain.hyperparameters[k]}
    changed = {
        "history_only": {"queries"}, "recommendation_only": {"ranking"}, "no_word_match": {"word_width"},
        "id_only": {"side_features"}, "rotary_rote": {"rotary"},
    }  # fmt: skip
    assert differing == changed.get(model, set())
    unmatched = model in ("history_only", "no_word_match", "id_only")
    assert (network.items.word_match is None) == unmatched and plain.items.word_match is not None
    weights = {"recommendation": 5.0, "search": 1.0, "ranking": 1.0}
    weighed = {"query_only": {"recommendation": 0.0}, "recommendation_only": {"search": 0.0}}
    assert objective.weights == weights | weighed.get(model, {})
    loss = {"recommendation_only": "NoneType", "pairwise": "Pairwise"}.get(model, "Hybrid")
    assert type(objective.ranking_loss).__name__ == loss
    assert objective.ranking_negatives.hard == 0.5


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="no row matches"):
        selected(model="sinergen")
