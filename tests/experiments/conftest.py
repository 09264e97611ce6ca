from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path += [str(EXPERIMENTS), str(EXPERIMENTS / "benchmarks"), str(EXPERIMENTS / "benchmarks" / "peers")]


@pytest.fixture(scope="session")
def plain_table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.experiments.toys import plain_rows

    return plain_rows(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def search_split() -> Any:
    from tests.experiments.toys import split_with_queries

    return split_with_queries()


@pytest.fixture(scope="session")
def search_table(tmp_path_factory: pytest.TempPathFactory, search_split: Any) -> dict[str, Any]:
    from tests.experiments.toys import search_rows

    return search_rows(tmp_path_factory.mktemp("runs"), search_split)
