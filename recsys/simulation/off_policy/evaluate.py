"""Several policies on one log: diagnostics first, then every estimate with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.diagnostics import Diagnostics, Limits, diagnose, refusals
from recsys.simulation.off_policy.direct_method import DirectMethod
from recsys.simulation.off_policy.doubly_robust import DoublyRobust, SelfNormalizedDR
from recsys.simulation.off_policy.intervals import Bootstrap, IntervalMethod
from recsys.simulation.off_policy.inverse_propensity import IPW, ClippedIPW, SelfNormalizedIPW
from recsys.simulation.off_policy.marginalised import MarginalizedIPW, with_clusters
from recsys.simulation.off_policy.policies import Policy
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction, RewardModel
from recsys.simulation.off_policy.rounds import BUDGET_BYTES, rounds_of
from recsys.simulation.off_policy.shrunk_weights import OptimisticShrinkageDR, SwitchDR
from recsys.simulation.off_policy.terms import Estimator, Terms
from recsys.simulation.off_policy.tuning import MSEBound, Tuned


@dataclass(frozen=True)
class Estimate:
    """Mean reward of a policy, as one estimator has it.

    Attributes:
        value: the estimate.
        low: lower end of its interval.
        high: upper end.
        gain: the estimate less the mean reward that was logged.
        gain_low: lower end of the interval of the gain, over the same draws of users.
        gain_high: upper end.
        parameter: that was chosen from the log; None: there is none.
    """

    value: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    parameter: float | None = None


@dataclass(frozen=True)
class PolicyReport:
    """What a log says of a policy.

    Attributes:
        diagnostics: of the weights.
        refusals: why there are no estimates; empty where there are.
        estimates: by the name of the estimator.
    """

    diagnostics: Diagnostics
    refusals: list[str]
    estimates: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class OffPolicyReport:
    """What a log says of several policies.

    Attributes:
        rounds: in the log.
        users: in the log.
        logged: mean reward.
        logged_low: lower end of its interval.
        logged_high: upper end.
        level: each interval misses with this chance.
        policies: by name.
    """

    rounds: int
    users: int
    logged: float
    logged_low: float
    logged_high: float
    level: float
    policies: dict[str, PolicyReport]

    def table(self) -> pd.DataFrame:
        """A row for each policy and estimator: `policy`, `estimator` and the attributes of `Estimate`."""
        rows = [
            {"policy": policy, "estimator": estimator, **asdict(estimate)}
            for policy, report in self.policies.items()
            for estimator, estimate in report.estimates.items()
        ]
        columns = ["policy", "estimator", *Estimate.__dataclass_fields__]
        return pd.DataFrame(rows, columns=columns)

    def as_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`."""
        return asdict(self)


def default_estimators() -> list[Estimator]:
    """Every estimator that needs no more than propensities, with its parameter chosen from the log."""
    return [
        DirectMethod(),
        IPW(),
        Tuned(ClippedIPW, MSEBound()),
        SelfNormalizedIPW(),
        DoublyRobust(),
        SelfNormalizedDR(),
        Tuned(SwitchDR),
        Tuned(OptimisticShrinkageDR, power=2),
    ]


def check_names(names: Sequence[str]) -> None:
    """Sees to it that no estimator takes the place of another in a report.

    Raises:
        ValueError: two have one name.
    """
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two estimators are named {twice[0]}; ask for them in two reports")


def estimates_of(
    terms: Mapping[str, Terms],
    observed: NDArray[np.float64],
    unit: NDArray[np.int64],
    method: IntervalMethod,
    level: float,
    parameters: Mapping[str, float | None] | None = None,
) -> dict[str, Estimate]:
    """Estimates with their intervals, and with gains over the rewards `[N]` that were observed.

    Args:
        terms: by the name of the estimator.
        observed: of each round or slate.
        unit: `[N]` int64, code of the user.
        method: makes intervals.
        level: an interval misses with this chance.
        parameters: that were chosen, by the name of the estimator; None: none was.
    """
    gains = {f"gain of {name}": each.minus(observed) for name, each in terms.items()}
    found = method.intervals({**terms, **gains}, unit, level)
    return {
        name: Estimate(
            each.value,
            *found[name],
            each.value - float(observed.mean()),
            *found[f"gain of {name}"],
            None if parameters is None else parameters[name],
        )
        for name, each in terms.items()
    }


def evaluate_policies(
    log: BanditLog,
    policies: Mapping[str, Policy],
    *,
    estimators: Sequence[Estimator] | None = None,
    reward_model: RewardModel | None = None,
    folds: int = 5,
    intervals: IntervalMethod | None = None,
    level: float = 0.05,
    limits: Limits | None = None,
    clusters: NDArray[np.int64] | None = None,
    logging: Policy | None = None,
    seed: int = 0,
    budget: int = BUDGET_BYTES,
) -> OffPolicyReport:
    """Estimates the mean reward of each policy. A policy that the log cannot judge gets refusals and no estimates.

    Args:
        log: logged rounds.
        policies: by name.
        estimators: None: `default_estimators`, and marginalised weights where there are clusters.
        reward_model: for those that need one; None: `MeanByAction`.
        folds: of users, that the model is fitted to.
        intervals: None: a bootstrap over users.
        level: an interval misses with this chance.
        limits: beyond which there are no estimates.
        clusters: `[A]` int64 cluster of each action, for marginalised weights.
        logging: the policy that logged, with all of its probabilities, for marginalised weights.
        seed: of folds and bootstrap.
        budget: bytes of a block of probabilities.

    Raises:
        LogError: there are fewer users than folds, or slates of several rounds.
        PolicyError: a policy does not fit the log.
        ValueError: two estimators have one name.

    Example:
        >>> from recsys.simulation.off_policy.policies import TablePolicy
        >>> random = np.random.default_rng(0)
        >>> action = random.integers(0, 2, 4000)
        >>> click = random.random(4000) < np.array([0.2, 0.6])[action]
        >>> log = BanditLog.from_frame(pd.DataFrame({"action": action, "reward": click * 1.0, "propensity": 0.5}))
        >>> second = TablePolicy(np.array([[0.0, 1.0]]), np.zeros(4000, dtype=np.int64))
        >>> report = evaluate_policies(log, {"second": second})
        >>> found = report.policies["second"].estimates["DR"]
        >>> found.low < 0.6 < found.high
        True
    """
    log.check_single()
    chosen = list(estimators) if estimators is not None else default_estimators()
    if estimators is None and clusters is not None:
        chosen.append(MarginalizedIPW())
    check_names([each.name for each in chosen])
    method = intervals or Bootstrap(seed=seed)
    rewards = CrossFitted.of(reward_model or MeanByAction(), log, folds, seed)
    logged = Terms(log.reward)
    low, high = method.intervals({"logged": logged}, log.unit, level)["logged"]
    reports = {}
    for name, policy in policies.items():
        rounds = rounds_of(log, policy, rewards, budget)
        diagnostics = diagnose(rounds)
        refused = refusals(diagnostics, limits or Limits())
        if refused:
            reports[name] = PolicyReport(diagnostics, refused)
            continue
        if clusters is not None:
            rounds = with_clusters(rounds, log, policy, clusters, logging, budget)
        parameters: dict[str, float | None] = {}
        terms: dict[str, Terms] = {}
        for estimator in chosen:
            parameter = None
            if isinstance(estimator, Tuned):
                parameter, estimator = estimator.chosen(rounds)
            terms[estimator.name], parameters[estimator.name] = estimator(rounds), parameter
        estimates = estimates_of(terms, log.reward, log.unit, method, level, parameters)
        reports[name] = PolicyReport(diagnostics, [], estimates)
    return OffPolicyReport(len(log), len(np.unique(log.unit)), logged.value, low, high, level, reports)
