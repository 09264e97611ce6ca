"""Several policies on one log of slates: diagnostics first, then every estimate of the reward of a slate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.diagnostics import Limits, diagnose, refusals
from recsys.simulation.off_policy.evaluate import OffPolicyReport, PolicyReport, check_names, estimates_of
from recsys.simulation.off_policy.intervals import Bootstrap, IntervalMethod
from recsys.simulation.off_policy.policies import Policy
from recsys.simulation.off_policy.rounds import BUDGET_BYTES, rounds_of
from recsys.simulation.off_policy.slate_rounds import observed_slates, slate_rounds
from recsys.simulation.off_policy.slates import CascadeDR, IndependentIPS, RewardInteractionIPS, SlateEstimator
from recsys.simulation.off_policy.terms import Terms


def evaluate_slates(
    log: BanditLog,
    policies: Mapping[str, Policy],
    *,
    estimators: Sequence[SlateEstimator] | None = None,
    position_weights: Sequence[float] | None = None,
    folds: int = 5,
    intervals: IntervalMethod | None = None,
    level: float = 0.05,
    limits: Limits | None = None,
    seed: int = 0,
    budget: int = BUDGET_BYTES,
) -> OffPolicyReport:
    """Estimates the mean reward of a slate under each policy. Diagnostics are those of single positions.

    Args:
        log: a log with slates.
        policies: by name, as `slate_rounds` reads them.
        estimators: None: reward-interaction IPS and the cascade DR, and independent IPS where the policy fills
            positions independently.
        position_weights: `[K]`, what a reward counts at each position; None: 1 each.
        folds: of users, that the model of the cascade is fitted to.
        intervals: None: a bootstrap over users.
        level: an interval misses with this chance.
        limits: beyond which there are no estimates.
        seed: of folds and bootstrap.
        budget: bytes of a block of probabilities.

    Returns:
        A report whose rounds are slates; rounds of the diagnostics are positions.

    Raises:
        LogError: the log has no slates, or fewer users than folds.
        PolicyError: a policy does not fit the log.
        ValueError: two estimators have one name.
    """
    check_names([each.name for each in estimators or []])
    method = intervals or Bootstrap(seed=seed)
    reports = {}
    for name, policy in policies.items():
        diagnostics = diagnose(rounds_of(log, policy, budget=budget))
        if refused := refusals(diagnostics, limits or Limits()):
            reports[name] = PolicyReport(diagnostics, refused)
            continue
        slates = slate_rounds(log, policy, position_weights, folds=folds, seed=seed, budget=budget)
        chosen: list[SlateEstimator] = [RewardInteractionIPS(), CascadeDR()]
        if slates.marginal is not None:
            chosen.insert(0, IndependentIPS())
        if estimators is not None:
            chosen = list(estimators)
        terms = {estimator.name: estimator(slates) for estimator in chosen}
        found = estimates_of(terms, slates.reward.sum(1), slates.unit, method, level)
        reports[name] = PolicyReport(diagnostics, [], found)
    observed, unit = observed_slates(log, position_weights)
    low, high = method.intervals({"logged": Terms(observed)}, unit, level)["logged"]
    users = len(np.unique(log.unit))
    return OffPolicyReport(len(observed), users, float(observed.mean()), low, high, level, reports)
