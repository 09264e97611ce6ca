"""A table begins with the same weights however it is cut; no two blocks or tables begin alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.training import initial_tables
from recsys.training.initial_tables import block_seed, initialise

BLOCK = 4
NORMAL = partial(nn.init.normal_, std=0.5)
Fill = Callable[[Tensor], Any]


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initial_tables, "BLOCK_ROWS", BLOCK)
        yield


def whole(name: str, rows: int, dim: int, seed: int = 0, fill: Fill = NORMAL) -> Tensor:
    """The table, not cut."""
    module = nn.ModuleDict({name: nn.Embedding(rows, dim)})
    initialise(module, [(f"{name}.weight", (rows, dim), fill)], seed)
    return module.state_dict()[f"{name}.weight"]


def by_blocks(name: str, rows: int, dim: int, seed: int = 0, fill: Fill = NORMAL) -> Tensor:
    """What the whole is defined to be: blocks that each follow a seed of their own."""
    blocks = []
    for block, first in enumerate(range(0, rows, BLOCK)):
        drawn = torch.empty(min(BLOCK, rows - first), dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(block_seed(seed, f"{name}.weight", block))
            fill(drawn)
        blocks.append(drawn)
    return torch.cat(blocks)


@given(st.integers(1, 15), st.integers(1, 6))
def test_a_table_is_a_stack_of_blocks(rows: int, dim: int) -> None:
    assert torch.equal(whole("item", rows, dim), by_blocks("item", rows, dim))


@settings(deadline=None)
@given(st.data())
def test_any_cut_holds_its_part_of_the_whole(data: st.DataObject) -> None:
    rows, dim = data.draw(st.integers(1, 15)), data.draw(st.integers(1, 6))
    row, column = data.draw(st.integers(0, rows)), data.draw(st.integers(0, dim - 1))
    height, width = data.draw(st.integers(0, rows - row)), data.draw(st.integers(1, dim - column))
    shard = torch.full((height, width), torch.nan)
    initial_tables._fill(shard, "item.weight", NORMAL, (row, column), (rows, dim), 0)
    assert torch.equal(shard, whole("item", rows, dim)[row : row + height, column : column + width])


def test_blocks_tables_and_seeds_differ() -> None:
    items = whole("item", 12, 3)
    blocks = [*items.split(BLOCK), *whole("word", 12, 3).split(BLOCK), *whole("item", 12, 3, seed=1).split(BLOCK)]
    assert all(not torch.equal(a, b) for at, a in enumerate(blocks) for b in blocks[:at])
    assert torch.equal(items, whole("item", 12, 3))


def test_seeds_are_those_that_torch_takes() -> None:
    seeds = {block_seed(seed, name, block) for seed in (0, 1) for name in ("a", "b") for block in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 1 << 63 for seed in seeds)


def test_the_values_follow_the_given_distribution() -> None:
    drawn = whole("item", 4000, 8)
    # 32,000 values: the standard error of the mean is 0.0028 and that of the deviation 0.002.
    assert abs(float(drawn.mean())) < 0.012 and abs(float(drawn.std()) - 0.5) < 0.009
    correlations = torch.corrcoef(drawn[: len(drawn) // BLOCK * BLOCK].view(-1, BLOCK * 8).T) - torch.eye(BLOCK * 8)
    assert float(correlations.abs().max()) < 0.2  # 1,000 blocks: the standard error is 0.03
    constant = whole("item", 9, 2, fill=lambda block: block.fill_(3.0))
    assert torch.equal(constant, torch.full((9, 2), 3.0))


def test_the_random_numbers_of_everything_else_stay_as_they_were() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    initialise(
        nn.ModuleDict({"item": nn.Embedding(9, 2, _weight=torch.zeros(9, 2))}), [("item.weight", (9, 2), NORMAL)], 0
    )
    assert torch.equal(torch.rand(3), expected)
