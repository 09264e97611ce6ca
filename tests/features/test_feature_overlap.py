"""The overlap of the features of items against sets of their values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.feature_overlap import FeatureOverlap
from recsys.features.schema import Schema

N_ITEMS = 7
FEATURES = ("brand", "tags", "words")


def jagged(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return torch.tensor([value for row in rows for value in row], dtype=torch.int64), torch.cat(
        [torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]
    )


def catalogue(values: dict[str, list[list[int]]]) -> Catalogue:
    features = [{"name": name, "column": name, "type": "categorical_list"} for name in values]
    lists = {name: jagged(rows) for name, rows in values.items()}
    schema = Schema.parse({"name": "toy", "features": features})
    return Catalogue(schema, N_ITEMS, 1, {}, torch.zeros(N_ITEMS + 1), jagged=lists)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {n: st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=N_ITEMS, max_size=N_ITEMS) for n in FEATURES}
    ),
    st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=6),
)
def test_is_the_jaccard_similarity_of_sets(values: dict[str, list[list[int]]], ids: list[int]) -> None:
    found = FeatureOverlap(catalogue(values))(torch.tensor(ids))
    sets = [{(name, value) for name in FEATURES for value in values[name][item - 1]} for item in ids]
    by_hand = [[len(one & other) / len(one | other) if one | other else 0.0 for other in sets] for one in sets]
    torch.testing.assert_close(found, torch.tensor(by_hand))


def test_the_padding_row_has_no_features() -> None:
    overlap = FeatureOverlap(catalogue({"tags": [[1]] * N_ITEMS}))
    assert overlap(torch.tensor([0, 1, 2])).tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


def test_items_without_values_cannot_be_alike() -> None:
    with pytest.raises(ValueError, match=r"`toy` have no categories, lists or texts.*leave `eliminate_overlap` out"):
        FeatureOverlap(catalogue({}))
