"""An older model meets a catalogue that has lost some of its items."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from recsys.evaluation.given_requests import given_set
from recsys.tracking.known_items import KnownItems
from recsys.tracking.pyfunc_evaluation import AnswerError, evaluate_pyfunc

REQUESTS = pd.DataFrame({"user_id": ["u", "v"], "relevant": [["b"], ["c"]]})
ITEMS = pd.DataFrame({"item_id": ["a", "b", "c"], "training_events": [3, 2, 1]})


def model_of(lists: list[list[str]]) -> tuple[Any, list[int]]:
    asked: list[int] = []

    def predict(frame: pd.DataFrame, params: dict[str, Any]) -> pd.DataFrame:
        asked.append(params["k"])
        rows = [
            {"request": at, "item_id": item, "rank": rank, "score": -float(rank)}
            for at, items in enumerate(lists)
            for rank, item in enumerate(items[: params["k"]], 1)
        ]
        return pd.DataFrame(rows, columns=["request", "item_id", "rank", "score"])

    return SimpleNamespace(predict=predict), asked


def test_gone_items_are_left_out_and_others_move_up() -> None:
    frozen = given_set(REQUESTS, ITEMS)
    model, asked = model_of([["gone", "b", "old", "a"], ["a", "b", "c"]])
    with pytest.raises(AnswerError, match="not in the catalogue"):
        evaluate_pyfunc(model, frozen, ks=(2,), top=2)
    asked.clear()
    found = evaluate_pyfunc(KnownItems(model, frozen), frozen, ks=(2,), top=2)
    assert asked == [4] and found.ranked.tolist() == [[2, 1], [1, 2]]  # rows of ITEMS count from 1
    assert found.metrics["HR@2"].tolist() == [1, 0]


def test_lists_of_known_items_stay_what_they_are() -> None:
    frozen = given_set(REQUESTS, ITEMS)
    model, _ = model_of([["a", "b", "c"], ["c", "b"]])
    plain, through = (evaluate_pyfunc(m, frozen, ks=(3,), top=3) for m in (model, KnownItems(model, frozen)))
    assert plain.ranked.tolist() == through.ranked.tolist()


def test_gaps_and_answers_that_are_none_are_still_refused() -> None:
    frozen = given_set(REQUESTS, ITEMS)
    gap = pd.DataFrame({"request": [0], "item_id": ["a"], "rank": [2], "score": [1.0]})
    for answer, said in ((gap, "without a gap"), ([1], "must answer with a DataFrame")):
        model = SimpleNamespace(predict=lambda frame, params, answer=answer: answer)
        with pytest.raises(AnswerError, match=said):
            evaluate_pyfunc(KnownItems(model, frozen), frozen, ks=(2,), top=2)
