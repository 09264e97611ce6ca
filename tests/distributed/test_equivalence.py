"""One, two and three ranks that share a batch train the same model, however its tables are sharded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed.conftest import Ranks
from tests.distributed.jobs import EPOCHS, STEPS, USERS

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(900)]

CLOSE = 1e-5
WEIGHTS_OVER_LOSSES = 3
"""Adam divides by the root of a small second moment, which enlarges what sums in another order differ by: weights were
seen 1.2e-5 apart after all steps where losses were closer."""
CLOSE_OF = {"two_tower": 1e-4}
"""Of cases whose losses were seen 3.3e-5 apart: Adam makes whole steps of gradients that are rounding, and a low
temperature multiplies what comes of them."""
CASES = {
    "row_wise": "row_wise",
    "table_wise": "row_wise",
    "data_parallel": "row_wise",
    "planner": "row_wise",
    "mixed": "mixed",
    "column_wise": "column_wise",
    "joint": "joint",
    "full_softmax": "full_softmax",
    "two_tower": "two_tower",
    "single_windows": "single_windows",
    "auxiliary": "auxiliary",
    "replicated_auxiliary": "replicated_auxiliary",
    "slates": "slates",
}
"""Case -> the case of one rank that it equals; all ways of sharding with one optimizer equal each other."""


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def assert_alike(found: dict[str, Any], expected: dict[str, Any], close: float = CLOSE) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], abs=close)
    assert found["logged"] == pytest.approx(expected["logged"], abs=close)
    assert differ(found["weights"], expected["weights"]) < WEIGHTS_OVER_LOSSES * close


@pytest.mark.parametrize("world", ["one", "two", "three"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process(ranks_of, one: Ranks, case: str, world: str) -> None:
    assert_alike(ranks_of(world)[case], one[CASES[case]], CLOSE_OF.get(case, CLOSE))


def test_means_of_bags_do_not_depend_on_what_else_the_collection_has(one: Ranks) -> None:
    # TorchRec adds 1e-6 to the length of a bag before it divides by it, where a table is cut by rows.
    assert_alike(one["mixed"], one["row_wise"], close=1e-4)


def test_a_job_without_the_strategy_is_the_same(one: Ranks) -> None:
    assert_alike(one["unsharded"], one["row_wise"])


def test_propensities_are_learned_by_all_ranks(one: Ranks) -> None:
    found, name = one["slates"], "objective.loss.propensity.free"
    moved = found["weights"][name] - found["initial"][name]
    assert float(moved.abs().min()) > 100 * CLOSE and "train/slates_position_r2" in found["logged"]


@pytest.mark.parametrize("world", ["two", "three"])
def test_two_towers_rank_where_only_one_rank_has_users(ranks_of, one: Ranks, world: str) -> None:
    lists = ranks_of(world)["two_tower"]["lists"]
    assert lists == one["two_tower"]["lists"] and len({tuple(items) for items in lists}) > 4


def test_two_towers_without_the_strategy_are_the_same(one: Ranks) -> None:
    found = one["two_tower"]
    assert_alike(one["unsharded_two_tower"], found, CLOSE_OF["two_tower"])
    moved = {name: float((found["weights"][name] - weight).abs().max()) for name, weight in found["initial"].items()}
    assert len([name for name in moved if "embedding" in name]) == 4  # of users, too
    assert min(moved.values()) > 100 * CLOSE


@pytest.mark.parametrize("case", ["auxiliary", "replicated_auxiliary"])
def test_a_job_with_auxiliary_losses_is_the_same_without_the_strategy(one: Ranks, case: str) -> None:
    found = one[case]
    assert_alike(one["unsharded_auxiliary"][case], found)
    moved = (found["weights"]["network.items.defaults"] - found["initial"]["network.items.defaults"]).abs()
    assert float(moved.mean(1).min()) > 100 * CLOSE and found["logged"]["train/feature_masking"] > 1.0


@pytest.mark.parametrize("case", ["row_wise", "column_wise", "joint"])
def test_something_is_learned(one: Ranks, case: str) -> None:
    found = one[case]
    moved = {name: float((found["weights"][name] - weight).abs().max()) for name, weight in found["initial"].items()}
    still = {name for name, distance in moved.items() if distance < 100 * CLOSE}
    assert len([name for name in moved if "embedding" in name]) == 3
    assert still <= {"network.tokens.masked_item"}  # which searches alone use
    assert found["losses"][-STEPS:] != pytest.approx(found["losses"][:STEPS], abs=0.1)


@pytest.mark.parametrize("world", ["one", "two", "three"])
def test_tables_follow_the_schedule_with_the_rest(ranks_of, world: str) -> None:
    rates = torch.tensor(ranks_of(world)["row_wise"]["rates"], dtype=torch.float64)
    expected = torch.tensor([0.7 ** (step // 3) for step in range(EPOCHS * STEPS)], dtype=torch.float64)
    torch.testing.assert_close(rates, expected.unsqueeze(1) * torch.tensor([[0.01, 0.05]]), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("world", ["two", "three"])
def test_every_rank_has_users_of_its_own(ranks_of, world: str) -> None:
    shares = ranks_of(world)["shares"]
    assert {len(share) for share in shares} == {STEPS}  # equally many steps, or some rank would wait for ever
    users = [user for share in shares for step in share for user in step]
    assert sorted(users) == list(range(1, USERS + 1))
    for step in zip(*shares, strict=True):
        sizes = [len(users) for users in step]
        assert max(sizes) - min(sizes) <= 1
    assert 0 in {len(users) for share in shares for users in share}  # the batch of one user leaves the others idle


def test_bf16_trains(two: Ranks) -> None:
    losses = two["bf16"]["losses"]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-STEPS:]) < 0.7 * sum(losses[:STEPS])
    assert {weight.dtype for weight in two["bf16"]["weights"].values()} == {torch.float32}
    assert losses != pytest.approx(two["row_wise"]["losses"] + losses[-STEPS:], abs=CLOSE)  # it is no float32
