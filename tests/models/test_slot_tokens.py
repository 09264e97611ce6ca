"""What stands at the input of each kind of token, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from recsys.features.catalogue import Catalogue
from recsys.features.schema import Schema
from recsys.models.slot_tokens import CONTEXT, RANKING, RETRIEVAL, SlotTokens

WIDTH = 6
CATALOGUE = Catalogue(
    Schema(name="toy"), n_items=3, n_users=2, table_rows={}, counts=torch.ones(4), actions=("buy", "view")
)


def tokens(**arguments: bool) -> SlotTokens:
    torch.manual_seed(0)
    made = SlotTokens(CATALOGUE, WIDTH, **({"queries": True, "ranking": True} | arguments), init_std=1.0)
    if made.query_map is not None:
        torch.nn.init.normal_(made.query_map.weight)
    return made


@pytest.fixture
def pooled() -> torch.Tensor:
    """Vectors of two queries after the row of none."""
    return torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


def by_hand(made: SlotTokens, pooled: torch.Tensor, row: int) -> torch.Tensor:
    return made.no_query[0] if row == 0 else made.query_map.weight @ pooled[row]


@torch.no_grad()
def test_each_token_is_the_sum_of_its_parts(pooled: torch.Tensor) -> None:
    made = tokens()
    queries, query = made.encode_queries(pooled), torch.tensor([0, 2, 1])
    items, action = torch.randn(3, WIDTH), torch.tensor([2, 0, 1])
    context = made.context(items, action, queries, query)
    retrieval = made.retrieval(queries, query)
    ranking = made.ranking(items, queries, query)
    for row in range(3):
        asked = by_hand(made, pooled, int(query[row]))
        expected = items[row] + made.action[action[row]] + asked + made.kind[CONTEXT]
        torch.testing.assert_close(context[row], expected)
        torch.testing.assert_close(retrieval[row], made.masked_item[0] + asked + made.kind[RETRIEVAL])
        torch.testing.assert_close(ranking[row], items[row] + made.masked_action[0] + asked + made.kind[RANKING])


@torch.no_grad()
def test_without_task_tokens_the_kinds_are_not_told_apart(pooled: torch.Tensor) -> None:
    made = tokens(task_tokens=False)
    assert made.kind is None
    queries = made.encode_queries(pooled)
    expected = made.masked_item[0] + by_hand(made, pooled, 1)
    torch.testing.assert_close(made.retrieval(queries, torch.tensor([1]))[0], expected)


@torch.no_grad()
def test_a_model_of_neither_queries_nor_ranking_adds_the_action_alone() -> None:
    made = tokens(queries=False, ranking=False)
    items = torch.randn(2, WIDTH)
    assert [name for name, _ in made.named_parameters()] == ["action"]
    assert torch.equal(made.context(items, torch.tensor([1, 0]), None, None), items + made.action[[1, 0]])


@torch.no_grad()
def test_a_batch_without_queries_says_so_to_a_model_that_reads_them() -> None:
    made = tokens(ranking=False)
    items = torch.randn(2, WIDTH)
    expected = items + made.action[[1, 1]] + made.no_query + made.kind[CONTEXT]
    torch.testing.assert_close(made.context(items, torch.tensor([1, 1]), None, None), expected)


def test_a_search_begins_as_a_comparison_of_words() -> None:
    made = SlotTokens(CATALOGUE, WIDTH, queries=True, ranking=False)
    pooled = torch.randn(2, WIDTH)
    torch.testing.assert_close(made.encode_queries(pooled)[1], pooled[1])
