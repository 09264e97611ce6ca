"""The reward of a challenger, estimated from logged recommendations with propensities."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys.evaluation.requests_table import JUDGES_ALONE, SCHEMA
from recsys.simulation.off_policy.bandit_log import BanditLog, LogColumns
from recsys.simulation.off_policy.choices import Choice, TopKUniform
from recsys.simulation.off_policy.diagnostics import Limits, diagnose, refusals
from recsys.simulation.off_policy.intervals import EmpiricalBernstein, LowerBound
from recsys.simulation.off_policy.inverse_propensity import IPW
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import rounds_of
from recsys.simulation.off_policy.scored_policy import ListScores, ScoredPolicy
from recsys.simulation.off_policy.terms import Estimator
from recsys.tracking.gates.case import Contestant
from recsys.tracking.gates.gate import GateError
from recsys.tracking.gates.off_policy_bound import Bound, OffPolicyEstimator
from recsys.tracking.pyfunc_evaluation import AnswerError


class LoggedRewards(OffPolicyEstimator):
    """Asks the model what it would have recommended in each logged round, and weighs the rewards of the log by it.

    The log is a Parquet file of `BanditLog`; its columns `history`, `query`, `time` and the others of a request to a
    served model are handed to the model, and so are `user_id` and `candidates`.

    Args:
        choice: makes a policy of the scores of a list; None: any of the k items alike.
        k: items that the model is asked for.
        estimator: of the reward; None: `IPW`.
        lower: makes the bound; None: `EmpiricalBernstein`, which holds for any number of users and needs rewards that
            are not negative and `IPW`.
        limits: beyond which the log cannot judge the model; None: the usual ones.
        columns: names of the columns of the log; None: the usual ones.
        filter_seen: whether the model leaves out what stands in a history, as it would in production.
        retrieve: items that the model retrieves for its ranking; 0: in the order of retrieval.
        batch_requests: requests put to the model at a time.
        folds: of users, for the reward model of an estimator that has one.
        seed: of the folds.

    Raises:
        GateError: k or the batch is not positive.
    """

    def __init__(
        self,
        choice: Choice | None = None,
        k: int = 10,
        estimator: Estimator | None = None,
        lower: LowerBound | None = None,
        limits: Limits | None = None,
        columns: LogColumns | None = None,
        filter_seen: bool = True,
        retrieve: int = 0,
        batch_requests: int = 512,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        if min(k, batch_requests) < 1:
            raise GateError(
                f"a model is asked for one item at least, in one request at least, not {k}, {batch_requests}"
            )
        self.choice, self.k, self.batch_requests = choice or TopKUniform(k), k, batch_requests
        self.estimator, self.lower = estimator or IPW(), lower or EmpiricalBernstein()
        self.limits, self.columns = limits or Limits(), columns or LogColumns()
        self.params = {"k": k, "filter_seen": filter_seen, "retrieve": retrieve}
        self.folds, self.seed = folds, seed

    def bound(self, log: Path, contestant: Contestant, level: float) -> Bound:
        """Estimates the mean reward of a model.

        Args:
            log: Parquet file of logged rounds.
            contestant: the model.
            level: the lower bound is above the truth with a chance of `level` at most.

        Raises:
            GateError: the log cannot judge the model.
            LogError: the log cannot be read.
            AnswerError: the model answers with no lists.
        """
        rounds = BanditLog.read(log, self.columns)
        policy = ScoredPolicy(self._lists(rounds, contestant), self.choice)
        rewards = CrossFitted.of(MeanByAction(), rounds, self.folds, self.seed)
        found = rounds_of(rounds, policy, rewards)
        if refused := refusals(diagnose(found), self.limits):
            raise GateError(f"{log.name} cannot judge {contestant.name}: {'; '.join(refused)}")
        terms = self.estimator(found)
        low = self.lower.lower(terms, rounds.unit, level)
        return Bound(low=low, estimate=terms.value, logged=float(rounds.reward.mean()))

    def _lists(self, log: BanditLog, contestant: Contestant) -> ListScores:
        """The answers of the model for all rounds."""
        model = contestant.load()
        ask = partial(getattr(model, "predict", model), params=self.params)
        requests = self._requests(log)
        names = log.actions.astype(str)
        actions = np.full((len(log), self.k), -1, dtype=np.int64)
        scores = np.full((len(log), self.k), -np.inf)
        for first in range(0, len(log), self.batch_requests):
            asked = requests.iloc[first : first + self.batch_requests].reset_index(drop=True)
            answer = ask(asked)
            request, rank, score = _answer(answer, len(asked), self.k, contestant.name)
            actions[first + request, rank] = names.get_indexer(pd.Index(answer["item_id"].astype(str)))
            scores[first + request, rank] = score
        return ListScores(actions, scores)

    def _requests(self, log: BanditLog) -> pd.DataFrame:
        """What the log tells of each request, in the columns and types that a served model reads."""
        table = log.table.rename(columns={self.columns.user: "user_id", self.columns.candidates: "candidates"})
        known = [name for name in SCHEMA.names if name not in JUDGES_ALONE and name in table.columns]
        asked = table[known].copy()
        if "user_id" in asked:
            asked["user_id"] = asked["user_id"].astype(str)
        if "history" in asked:
            asked["history"] = [[str(item) for item in items] for items in asked["history"]]
        if log.candidates is not None:
            asked["candidates"] = [[str(item) for item in items] for items in table["candidates"]]
        if asked.empty:
            raise GateError(f"{log.origin} says nothing of who was asked; it needs `user_id` or `history`")
        return asked


def _answer(answer: Any, asked: int, k: int, model: str) -> tuple[Any, Any, Any]:
    """Request, rank from 0 and score of each row of an answer.

    Raises:
        AnswerError: it is none.
    """
    wanted = {"request", "item_id", "rank", "score"}
    if not isinstance(answer, pd.DataFrame) or not wanted <= set(answer.columns):
        raise AnswerError(f"{model} must answer with a DataFrame of {', '.join(sorted(wanted))}")
    request, rank = (answer[name].to_numpy(dtype=np.int64) for name in ("request", "rank"))
    score = answer["score"].to_numpy(dtype=np.float64)
    if len(answer) and not (0 <= request.min() <= request.max() < asked and 1 <= rank.min() <= rank.max() <= k):
        raise AnswerError(f"{model} answers requests 0 to {asked - 1} with ranks 1 to {k}, and with nothing else")
    if not np.isfinite(score).all():
        raise AnswerError(f"{model} answers with a score that is not finite")
    return request, rank - 1, score
