"""Tables of shown lists, and the errors that their faults give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features.list_table import ListDataError
from recsys.unbiased.logged_lists import LoggedLists


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "query_id": ["b", "a", "b", "c", "b"],
            "position": [3, 1, 1, 1, 2],
            "click": [1, 0, 0, 1, 0],
            "device": [1, 0, 1, 1, 1],
            "price": [30.0, 5.0, 10.0, 7.0, 20.0],
        }
    )


def test_rows_come_in_shown_order_whatever_their_order_in_the_table() -> None:
    log = LoggedLists.from_frame(table(), context="device")
    assert (len(log), log.positions, log.n_features) == (3, 3, 1)
    lists = log.lists(torch.tensor([1, 0]))
    assert lists.features.squeeze(-1).tolist() == [[10.0, 20.0, 30.0], [5.0, 0.0, 0.0]]
    assert lists.click.tolist() == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]] and lists.click.dtype == torch.float32
    assert lists.mask.tolist() == [[True, True, True], [True, False, False]]
    assert lists.context is not None and lists.context.tolist() == [1, 0]
    for seed in range(5):
        shuffled = LoggedLists.from_frame(table().sample(frac=1, random_state=seed), context="device")
        for one, other in zip(shuffled.lists(torch.arange(3)), log.lists(torch.arange(3)), strict=True):
            assert torch.equal(one, other)


def test_gaps_stay_empty() -> None:
    log = LoggedLists.from_frame(table()[table()["position"] != 2], features=["price"])
    assert log.lists(torch.tensor([1])).mask.tolist() == [[True, False, True]]


def test_lists_without_clicks_can_be_left_out() -> None:
    log = LoggedLists.from_frame(table(), context="device").clicked()
    assert log.lists(torch.arange(2)).features[:, 0, 0].tolist() == [10.0, 7.0]
    assert log.context is not None and log.context.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="click"), "no column .'click'"),
        (lambda t: t.iloc[:0], "empty"),
        (lambda t: t[["query_id", "position", "click"]], "no column of features"),
        (lambda t: t.assign(click=[1, 0, 0, 2, 0]), "0 or 1, not 2"),
        (lambda t: t.assign(click=[1, 0, 0, 0.5, 0]), "`click` is a whole number from 0; row 3 has 0.5"),
        (lambda t: t.assign(position=[3, 1, 0, 1, 2]), "`position` is a whole number from 1; row 2 has 0"),
        (lambda t: t.assign(position=[3, 1, np.nan, 1, 2]), "row 2 has nan"),
        (lambda t: t.assign(position=[3, 1, 1, 1, 10**9]), "nobody saw more than"),
        (lambda t: t.assign(position=[3, 1, 1, 1, 3]), "list b has two documents at position 3"),
        (lambda t: t.assign(position=[3, 2, 1, 1, 2]), "1 lists lack position 1, list a among"),
        (lambda t: t.assign(price=[1.0, np.nan, 1.0, 1.0, 1.0]), "feature `price` is empty"),
        (lambda t: t.assign(price="cheap"), r"\['price'\] are not"),
        (lambda t: t.assign(query_id=["b", None, "b", "c", "b"]), "`query_id` is empty in 1 rows"),
        (lambda t: t.assign(device=[1, 0, 0, 1, 1]), "`device` differs within a list"),
    ],
)
def test_each_fault_is_named(change, message: str) -> None:
    faulty = change(table())
    context = "device" if "device" in faulty else None
    with pytest.raises(ListDataError, match=message) as caught:
        LoggedLists.from_frame(faulty, context=context, origin="clicks.parquet")
    assert str(caught.value).startswith("clicks.parquet: ")
