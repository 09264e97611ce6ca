"""Users against sums made user by user and value by value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.schema import Schema
from recsys.models.tables import tables_on
from recsys.models.user_encoder import UserEncoder

N_USERS, WIDTH = 5, 8
FEATURES = [
    {"name": "job", "column": "job", "type": "categorical", "entity": "user"},
    {"name": "hobbies", "column": "hobbies", "type": "categorical_list", "entity": "user", "pooling": "sum"},
    {"name": "friends", "column": "friends", "type": "categorical_list", "entity": "user", "table": "user_id"},
    {"name": "age", "column": "age", "type": "numeric", "entity": "user"},
    {"name": "taste", "column": "taste", "type": "vector", "entity": "user"},
]
ROWS: dict[str, list[list[int]]] = {
    "job": [[], [2], [1], [], [], []],
    "hobbies": [[], [1, 3], [2], [], [], []],
    "friends": [[], [2], [1, 3], [], [], []],
    "user_id": [[], [1], [2], [3], [], []],  # users 4 and 5 have no row
}
EVERY = torch.arange(N_USERS + 1)


def jagged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64), lengths.cumsum(0)


def catalogue(**schema: Any) -> Catalogue:
    taste = torch.randn(N_USERS + 1, 3, generator=torch.Generator().manual_seed(0))
    taste[[0, 3, 5]] = 0
    tables = {"hobbies": {"dim": 4}}
    return Catalogue(
        schema=Schema.parse({"name": "toy", "features": FEATURES, "tables": tables, "user_table": {"dim": 3}} | schema),
        n_items=2,
        n_users=N_USERS,
        table_rows={"item_id": 3, "user_id": 4, "job": 3, "hobbies": 4},
        counts=torch.ones(3),
        user_jagged={name: jagged(rows) for name, rows in ROWS.items()},
        user_numeric={"age": torch.tensor([0, 0.5, -1.0, 0, 0, 0])},
        user_vectors={"taste": taste},
    )


def encoder(of: Catalogue | None = None) -> UserEncoder:
    torch.manual_seed(0)
    return UserEncoder(of or catalogue(), WIDTH)


def by_hand(users: UserEncoder, of: Catalogue, user: int) -> Tensor:
    """The vector of a user, feature by feature and value by value."""
    tables = {name: table.weight for name, table in users.bags.embedding_bags.items()}
    out = users.numeric_map.weight[:, 0] * of.user_numeric["age"][user]
    out = out + users.frozen[0].project.weight @ of.user_vectors["taste"][user]
    for name, table in (("job", "job"), ("hobbies", "hobbies"), ("friends", "user_id"), ("user_id", "user_id")):
        rows = [tables[table][row] for row in ROWS[name][user]]
        if rows:
            pooled = torch.stack(rows).sum(0) / (1 if name == "hobbies" else len(rows))
            out = out + (users.project[name].weight @ pooled if name in users.project else pooled)
    return out


def test_ids_and_features_are_added_up() -> None:
    of = catalogue()
    users = encoder(of)
    assert set(users.project) == {"hobbies", "friends", "user_id"}  # whose tables are narrower than the model
    ids = torch.tensor([2, 0, 1, 1, 3, 4])
    expected = torch.stack([by_hand(users, of, user) for user in ids.tolist()])
    torch.testing.assert_close(users(ids), expected)
    torch.testing.assert_close(users(ids[:1]), expected[:1])


def test_whoever_is_not_known_has_no_vector() -> None:
    """Padding, a user of whom nothing is told, and one of a later log."""
    users = encoder()
    strangers = torch.tensor([0, 5, N_USERS + 1, 10**9])
    assert torch.equal(users(strangers), torch.zeros(4, WIDTH))
    assert users.knows(strangers).tolist() == [False] * 4
    assert users.knows(EVERY).tolist() == [False, True, True, True, True, False]
    assert torch.equal(users(EVERY).any(dim=1), users.knows(EVERY))


def test_a_step_touches_the_rows_that_it_looked_up() -> None:
    users = encoder()
    users(torch.tensor([2, 0])).sum().backward()
    touched = {}
    for name, table in users.bags.embedding_bags.items():
        assert table.weight.grad is not None and table.weight.grad.is_sparse
        touched[name] = set(table.weight.grad.coalesce().indices().flatten().tolist())
    assert touched == {"job": {1}, "hobbies": {2}, "user_id": {1, 2, 3}}


@pytest.mark.parametrize(
    "kept", [["job"], ["age"], ["taste"], []], ids=["a table", "a number", "a vector", "the id alone"]
)
def test_one_thing_is_enough(kept: list[str]) -> None:
    of = catalogue(features=[feature for feature in FEATURES if feature["name"] in kept], tables={})
    of = replace(
        of,
        schema=of.schema if not kept else of.schema.model_copy(update={"user_table": None}),
        user_jagged={name: column for name, column in of.user_jagged.items() if name in (kept or ["user_id"])},
        user_numeric={name: column for name, column in of.user_numeric.items() if name in kept},
        user_vectors={name: column for name, column in of.user_vectors.items() if name in kept},
    )
    users = encoder(of)
    vectors = users(EVERY)
    assert vectors.shape == (N_USERS + 1, WIDTH) and torch.equal(vectors.any(dim=1), users.knows(EVERY))
    assert users.knows(EVERY).any()


def test_nothing_is_not_enough() -> None:
    with pytest.raises(ValueError, match="schema `toy` tells nothing of users: set `user_table`"):
        UserEncoder(catalogue(features=[], tables={}, user_table=None), WIDTH)


def test_a_table_can_be_held_in_two_parts() -> None:
    of = catalogue(user_table={"compression": {"method": "quotient_remainder", "rows": 2}}, features=FEATURES[:2])
    of = replace(of, table_rows=of.table_rows | {"user_id": 9}, user_numeric={}, user_vectors={})
    of = replace(of, user_jagged={name: of.user_jagged[name] for name in ("job", "hobbies", "user_id")})
    users = encoder(of)
    assert {name for name in users.bags.embedding_bags if name.startswith("user_id")} == {
        "user_id/quotient",
        "user_id/remainder",
    }
    assert torch.equal(users(EVERY).any(dim=1), users.knows(EVERY))


def test_tables_can_be_made_without_memory() -> None:
    with tables_on("meta"):
        users = encoder()
    assert all(table.weight.is_meta for table in users.bags.embedding_bags.values())
