"""The reward of a challenger, estimated from logged recommendations with propensities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import Choice, TopKUniform
from recsys.simulation.off_policy.diagnostics import Limits, diagnose, refusals
from recsys.simulation.off_policy.intervals import EmpiricalBernstein, LowerBound
from recsys.simulation.off_policy.inverse_propensity import IPW
from recsys.simulation.off_policy.log_columns import LogColumns
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import rounds_of
from recsys.simulation.off_policy.scored_policy import ScoredPolicy
from recsys.simulation.off_policy.terms import Estimator
from recsys.tracking.answered_rounds import answered_rounds
from recsys.tracking.gates.case import Contestant
from recsys.tracking.gates.gate import GateError
from recsys.tracking.gates.off_policy_bound import Bound, OffPolicyEstimator


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
        self.choice, self.k = choice or TopKUniform(k), k
        self.estimator, self.lower = estimator or IPW(), lower or EmpiricalBernstein()
        self.limits, self.columns = limits or Limits(), columns or LogColumns()
        self.asked: dict[str, Any] = {
            "k": k,
            "columns": self.columns,
            "filter_seen": filter_seen,
            "retrieve": retrieve,
            "batch_requests": batch_requests,
        }
        self.folds, self.seed = folds, seed

    def bound(self, log: Path, contestant: Contestant, level: float) -> Bound:
        """Estimates the mean reward of a model.

        Args:
            log: Parquet file of logged rounds.
            contestant: the model.
            level: the lower bound is above the truth with a chance of `level` at most.

        Raises:
            GateError: the log cannot judge the model.
            LogError: the log cannot be read, or says nothing of who was asked.
            AnswerError: the model answers with no lists.
        """
        rounds = BanditLog.read(log, self.columns)
        rounds.check_single()
        lists = answered_rounds(rounds, contestant.load(), name=contestant.name, **self.asked)
        policy = ScoredPolicy(lists, self.choice)
        rewards = CrossFitted.of(MeanByAction(), rounds, self.folds, self.seed)
        found = rounds_of(rounds, policy, rewards)
        if refused := refusals(diagnose(found), self.limits):
            raise GateError(f"{log.name} cannot judge {contestant.name}: {'; '.join(refused)}")
        terms = self.estimator(found)
        low = self.lower.lower(terms, rounds.unit, level)
        return Bound(low=low, estimate=terms.value, logged=float(rounds.reward.mean()))
