from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from ssl_step_cost import NETWORKS, PLAIN, TERMS, Facts, Side, compare, least, measure

from tests.distributed.jobs import log_data, write_log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("log")
    write_log(made)
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("term", [PLAIN, *TERMS])
def test_every_side_takes_its_steps(folder: Path, network: str, term: str) -> None:
    given = argparse.Namespace(n=16, negatives=20, warm_up=1, steps=2, threads=1)
    facts = measure(log_data(folder), Side(network, term), given)
    assert facts.seconds > 0 and 50 < facts.peak_mib < 50_000


def test_ratios_are_over_the_plain_step_of_the_same_network() -> None:
    found = {
        Side("a", PLAIN): Facts(2.0, 100.0),
        Side("a", "random"): Facts(3.0, 150.0),
        Side("b", PLAIN): Facts(1.0, 50.0),
        Side("b", "random"): Facts(4.0, 60.0),
    }
    assert {name: entry["value"] for name, entry in compare(found).items()} == {
        "a/random/time": 1.5,
        "a/random/peak": 1.5,
        "b/random/time": 4.0,
        "b/random/peak": 1.2,
    }


def test_the_best_repeat_of_each_number_counts() -> None:
    assert least(Facts(2.0, 90.0), Facts(3.0, 80.0)) == Facts(2.0, 80.0) == least(None, Facts(2.0, 80.0))
