from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from _rows import BASELINES, DATASETS, RANDOM_BASELINES, SPLITS, rows, selected

from recsys.evaluation.baselines import baselines

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
        if row.is_baseline:
            draws = hasattr(declared[BASELINES[row.model]], "seed")
            assert draws == (row.model in RANDOM_BASELINES)
            assert len(row.seeds) == (3 if draws else 1)


def test_every_class_of_a_row_exists_and_takes_its_arguments():
    found = [node for row in rows() for node in classes(dict(row.settings))] + list(classes(SPLITS))
    assert len(found) > 30
    for node in found:
        module, _, name = node["class_path"].rpartition(".")
        arguments = {key: None for key in node.get("init_args", {})}
        inspect.signature(getattr(importlib.import_module(module), name)).bind(**arguments)


@pytest.mark.parametrize("dataset", DATASETS)
def test_settings_name_what_the_recipe_can_hold(dataset):
    recipe = yaml.safe_load((ROOT / "experiments" / f"{dataset}.yaml").read_text())
    assert recipe["data"]["dataset"] == dataset
    network = recipe["model"]["network"]["class_path"].rpartition(".")
    known = inspect.signature(getattr(importlib.import_module(network[0]), network[2])).parameters
    for row in selected(dataset):
        for key in row.settings:
            if key.startswith("model.network.init_args."):
                assert key.rpartition(".")[2] in known


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="no row matches"):
        selected(model="sinergen")
