"""What a served model would have recommended in logged rounds."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from recsys.evaluation.requests_table import JUDGES_ALONE, SCHEMA
from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.log_columns import LogColumns, LogError
from recsys.simulation.off_policy.scored_policy import ListScores
from recsys.tracking.pyfunc_evaluation import AnswerError, integers_of


def answered_rounds(
    log: BanditLog,
    model: Any,
    *,
    k: int = 10,
    columns: LogColumns | None = None,
    filter_seen: bool = True,
    retrieve: int = 0,
    batch_requests: int = 512,
    name: str = "the model",
) -> ListScores:
    """Asks a model the request of each round, and keeps its scored lists.

    The model is handed the columns of the log that a request to a served model may have: `user_id`, `history`, `query`,
    `time` and the others, and `candidates`. Items of an answer that are no actions of the log stay as such.

    Args:
        log: the log.
        model: a `mlflow.pyfunc.PyFuncModel`, or a callable of frame and `params`.
        k: items that it is asked for.
        columns: names of the columns of the log; None: the usual ones.
        filter_seen: whether it leaves out what stands in a history, as it would in production.
        retrieve: items that it retrieves for its ranking; 0: in the order of retrieval.
        batch_requests: requests put to it at a time.
        name: of the model, to print.

    Raises:
        LogError: the log says nothing of who was asked.
        AnswerError: the model answers with no lists.
    """
    requests = _requests(log, columns or LogColumns())
    ask = partial(getattr(model, "predict", model), params={"k": k, "filter_seen": filter_seen, "retrieve": retrieve})
    names = log.actions.astype(str)
    actions = np.full((len(log), k), -1, dtype=np.int64)
    scores = np.full((len(log), k), -np.inf)
    for first in range(0, len(log), batch_requests):
        asked = requests.iloc[first : first + batch_requests].reset_index(drop=True)
        answer = ask(asked)
        request, rank, score = _answer(answer, len(asked), k, name)
        actions[first + request, rank] = names.get_indexer(pd.Index(answer["item_id"].astype(str)))
        scores[first + request, rank] = score
    return ListScores(actions, scores)


def _requests(log: BanditLog, columns: LogColumns) -> pd.DataFrame:
    """What the log tells of each request, in the columns and types that a served model reads."""
    table = log.table.rename(columns={columns.user: "user_id", columns.candidates: "candidates"})
    known = [name for name in SCHEMA.names if name not in JUDGES_ALONE and name in table.columns]
    asked = table[known].copy()
    if "user_id" in asked:
        asked["user_id"] = asked["user_id"].astype(str)
    if "history" in asked:
        asked["history"] = [_names(items) for items in asked["history"]]
    if log.candidates is not None:
        asked["candidates"] = [_names(items) for items in table["candidates"]]
    if asked.empty:
        raise LogError(f"{log.origin} says nothing of who was asked; it needs `user_id` or `history`")
    return asked


def _names(items: Any) -> Any:
    """Items as served models name them; None where it is not known which."""
    return None if items is None else [str(item) for item in items]


def _answer(answer: Any, asked: int, k: int, model: str) -> tuple[Any, Any, Any]:
    """Request, rank from 0 and score of each row of an answer.

    Raises:
        AnswerError: it is none.
    """
    wanted = {"request", "item_id", "rank", "score"}
    if not isinstance(answer, pd.DataFrame) or not wanted <= set(answer.columns):
        raise AnswerError(f"{model} must answer with a DataFrame of {', '.join(sorted(wanted))}")
    request, rank = (integers_of(answer, name, model) for name in ("request", "rank"))
    score = answer["score"].to_numpy(dtype=np.float64)
    if len(answer) and not (0 <= request.min() <= request.max() < asked and 1 <= rank.min() <= rank.max() <= k):
        raise AnswerError(f"{model} answers requests 0 to {asked - 1} with ranks 1 to {k}, and with nothing else")
    if not np.isfinite(score).all():
        raise AnswerError(f"{model} answers with a score that is not finite")
    for column, what in (("rank", "two items of one rank"), ("item_id", "one item twice")):
        if (twice := answer.duplicated(["request", column]).to_numpy()).any():
            raise AnswerError(f"{model} answers request {request[int(twice.argmax())]} of a frame with {what}")
    return request, rank - 1, score
