"""Judges any model that answers requests with lists, be it ours or not, on a frozen evaluation set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.evaluation.evaluate import judged_lists
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.metrics import check_cut_offs
from recsys.evaluation.result import Evaluation
from recsys.evaluation.tasks import Task

_COLUMNS = ("request", "item_id", "rank", "score")


class AnswerError(ValueError):
    """An answer of a model that is no ranked list of the catalogue; the message names request and item."""


def evaluate_pyfunc(
    model: Any,
    evaluation_set: EvaluationSet,
    *,
    task: Task | None = None,
    ks: Sequence[int] = (10, 50),
    top: int = 100,
    batch_requests: int = 512,
    retrieve: int = 0,
    name: str | None = None,
) -> Evaluation:
    """Asks a model every request of a task, and judges its lists as `evaluate` does.

    The model is called with a frame (a row is a request; columns as in `requests_table.SCHEMA`, without `user`, `task`
    and `relevant`) and the parameters `k`, `filter_seen` and `retrieve`. It answers with a frame: `request` (row number
    of the request, from 0), `item_id` (string), `rank` (from 1) and `score`; further columns are left alone, and rows
    may stand in any order. A list may be shorter than k, or empty.

    An answer that breaks this is an error, and so is a seen item where seen items are filtered. Counting such answers
    and going on would give a number that looks like one of a model that is worse, or better, than the one at hand: a
    doubled item may be found twice, an unknown one takes a place that no other model has to give.

    Memory: one batch of requests and answers, and `U * top * 4` bytes of lists.

    Args:
        model: a `mlflow.pyfunc.PyFuncModel`, or a callable of frame and parameters.
        evaluation_set: the requests, the catalogue and the rules.
        task: which of its requests.
        ks: cut-offs of the metrics.
        top: length of the lists, the `k` that is asked for.
        batch_requests: requests put to the model at a time.
        retrieve: items that the model retrieves for its ranking; 0: the order of retrieval.
        name: of the model, to print; None: that of its class or function.

    Returns:
        An evaluation whose item ids count the rows of `evaluation_set.items` from 1. `facts["evaluation_set"]` is the
        fingerprint of the set.

    Raises:
        AnswerError: the model answers with something else.
        EvaluationError: the set has no requests of the task.
        ValueError: a cut-off exceeds `top`, or `top` exceeds `retrieve`.

    Example:
        >>> from recsys.evaluation.given_requests import given_set
        >>> asked = pd.DataFrame({"user_id": ["u", "v"], "relevant": [["b"], ["a"]]})
        >>> items = pd.DataFrame({"item_id": ["a", "b"], "training_events": [3, 1]})
        >>> def always_a(frame, params):
        ...     rows = range(len(frame))
        ...     return pd.DataFrame({"request": rows, "item_id": "a", "rank": 1, "score": 1.0})
        >>> evaluate_pyfunc(always_a, given_set(asked, items), ks=(1,), top=1).means()["HR@1"]
        0.5
    """
    check_cut_offs(ks, top)
    if 0 < retrieve < top:
        raise ValueError(f"retrieve {retrieve} is less than top {top}: the end of the lists would be empty")
    started = time.perf_counter()
    found = evaluation_set.relevance(task)
    rows = evaluation_set.rows(task)
    lengths = evaluation_set.history_length(rows)
    printed = str(name or getattr(model, "__name__", type(model).__name__))
    params = {"k": top, "filter_seen": evaluation_set.filter_seen, "retrieve": retrieve}
    ranked = np.zeros((len(rows), top), dtype=np.int32)
    order = np.argsort(lengths, kind="stable")  # histories of one length together: models that pad have little to pad
    for first in range(0, len(rows), batch_requests):
        places = order[first : first + batch_requests]
        asked = evaluation_set.questions(rows[places])
        answer = model.predict(asked, params=params) if hasattr(model, "predict") else model(asked, params)
        ranked[places] = _lists(answer, evaluation_set, rows[places], top, printed)
    return judged_lists(
        printed,
        users=evaluation_set.users(rows),
        history_length=lengths,
        ranked=ranked,
        found=found,
        ks=ks,
        settings={
            "evaluation_set": evaluation_set.fingerprint,
            "max_length": None,  # it is given whole histories
            "rerank": retrieve or None,
            "top": top,
        },
        started=started,
    )


def _lists(
    answer: Any, evaluation_set: EvaluationSet, rows: NDArray[np.int64], top: int, model: str
) -> NDArray[np.int32]:
    """The lists of a batch, `[len(rows), top]` int32, 0 where they end.

    Raises:
        AnswerError: they are none.
    """
    if not isinstance(answer, pd.DataFrame) or not set(_COLUMNS) <= set(answer.columns):
        has = f"the columns {', '.join(map(str, answer.columns))}" if isinstance(answer, pd.DataFrame) else type(answer)
        raise AnswerError(f"{model} must answer with a DataFrame of {', '.join(_COLUMNS)}, not with {has}")
    request, rank = integers_of(answer, "request", model), integers_of(answer, "rank", model)
    items = answer["item_id"].to_numpy(dtype=object)

    def refuse(wrong: NDArray[np.bool_], what: str) -> None:
        for place in np.flatnonzero(wrong)[:1]:
            row = int(rows[request[place]])
            user = evaluation_set.requests["user_id"][row].as_py()
            said = what.format(item=items[place], rank=rank[place])
            more = f" ({int(wrong.sum()):,} such rows in a batch of {len(rows):,} requests)" if wrong.sum() > 1 else ""
            raise AnswerError(f"{model} answers request {row}, of user `{user}`, {said}{more}")

    if len(request) and not 0 <= request.min() <= request.max() < len(rows):
        raise AnswerError(
            f"{model} answers request {request.max() if request.min() >= 0 else request.min()} of a frame with "
            f"{len(rows)}: `request` is the row number in the frame, from 0"
        )
    lengths = np.bincount(request, minlength=len(rows))
    order = np.lexsort((rank, request))
    request, rank, items = request[order], rank[order], items[order]
    refuse(rank > top, f"with rank {{rank}}, and {top} items were asked for (`params['k']`)")
    expected = np.arange(len(request)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    refuse(rank != expected, "with rank {rank} where another follows: ranks count 1, 2, ... without a gap")
    score = pd.to_numeric(answer["score"], errors="coerce").to_numpy(dtype=np.float64)[order]
    refuse(~np.isfinite(score), "with a score of item `{item}` that is NaN, infinite or no number")
    ids = evaluation_set.catalogue.get_indexer(pd.Index(items, dtype=object)) + 1
    refuse(ids == 0, "with item `{item}`, which is not in the catalogue of the evaluation set (names are strings)")
    pairs = request * (len(evaluation_set.catalogue) + 1) + ids
    _, first = np.unique(pairs, return_index=True)
    refuse(np.bincount(first, minlength=len(pairs)) == 0, "with item `{item}` twice")
    if evaluation_set.filter_seen:
        known = evaluation_set.item_ids("history", rows)
        seen = np.repeat(np.arange(len(rows)), known.lengths) * (len(evaluation_set.catalogue) + 1) + known.values
        refuse(
            np.isin(pairs, seen),
            "with item `{item}`, which its history holds; leave seen items out where `params['filter_seen']` is true",
        )
    lists = np.zeros((len(rows), top), dtype=np.int32)
    lists[request, rank - 1] = ids
    return lists


def integers_of(answer: pd.DataFrame, column: str, model: str) -> NDArray[np.int64]:
    """`[n]` integers of a column of an answer.

    Raises:
        AnswerError: they are none.
    """
    values = pd.to_numeric(answer[column], errors="coerce")
    if values.isna().any() or not (values == values.round()).all():
        raise AnswerError(f"{model}: column `{column}` of an answer must hold integers")
    return values.to_numpy(dtype=np.int64)
