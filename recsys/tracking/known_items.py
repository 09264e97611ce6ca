"""An older model on the catalogue of today: items that are gone are left out of its lists, as production would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from recsys.evaluation.evaluation_set import EvaluationSet

_MORE = 2
"""Times as many items as are asked for: of longer lists more may be gone before they end too soon."""


class KnownItems:
    """Answers with the lists of a model, but for the items that an evaluation set does not know.

    What is no list of items is handed on as it is, to be refused by who judges.

    Args:
        model: a `mlflow.pyfunc.PyFuncModel`.
        evaluation_set: whose catalogue counts.
    """

    def __init__(self, model: Any, evaluation_set: EvaluationSet) -> None:
        self.model, self.catalogue = model, evaluation_set.catalogue

    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any]) -> Any:
        """The lists of a frame, at most `k` items long; ranks count anew where items were left out."""
        k = params["k"]
        answer = self.model.predict(frame, params={**params, "k": _MORE * k})
        if not isinstance(answer, pd.DataFrame) or not {"request", "item_id", "rank"} <= set(answer.columns):
            return answer
        known = answer[answer["item_id"].isin(self.catalogue)].sort_values(["request", "rank"])
        if len(known) < len(answer):
            known = known.assign(rank=known.groupby("request", dropna=False).cumcount() + 1)
        return known[known["rank"] <= k]
