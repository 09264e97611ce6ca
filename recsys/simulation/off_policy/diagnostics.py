"""Whether a log can say anything of a policy, asked before any estimate is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from recsys.simulation.off_policy.intervals import Normal, unit_sums
from recsys.simulation.off_policy.rounds import Rounds
from recsys.simulation.off_policy.terms import Terms

TAIL = 0.01
"""Share of the rounds whose weight `tail_share` sums up."""


@dataclass(frozen=True)
class Diagnostics:
    """How the weights of a policy look on a log.

    Attributes:
        rounds: N.
        units: users.
        effective_rounds: rounds of equal weight that would tell as much, `sum(w)^2 / sum(w^2)` (Kish, 1965).
        overlap: share of the rounds whose action the policy could have taken.
        max_weight: largest weight.
        tail_share: share of the sum of weights that the heaviest hundredth of the rounds has.
        mean_weight: mean of the weights, 1 in expectation where the propensities are right and nothing is unsupported.
        mean_weight_low: lower end of its 95 % interval.
        mean_weight_high: upper end.
        mean_weight_p: two-sided p-value of a mean of 1.
        unsupported: probability that the policy gives to actions that were never logged at the position.
    """

    rounds: int
    units: int
    effective_rounds: float
    overlap: float
    max_weight: float
    tail_share: float
    mean_weight: float
    mean_weight_low: float
    mean_weight_high: float
    mean_weight_p: float
    unsupported: float


@dataclass(frozen=True)
class Limits:
    """When nothing is reported.

    Attributes:
        unsupported: most probability of actions that were never logged. A log with few rounds an action lacks many by
            chance alone: raise it where every action had a chance, and let the mean weight tell.
        effective_rounds: fewest effective rounds.
        mean_weight_p: the mean weight must not differ from 1 at this level; 0 lets it be anything.
    """

    unsupported: float = 0.01
    effective_rounds: float = 30.0
    mean_weight_p: float = 0.001


def diagnose(rounds: Rounds) -> Diagnostics:
    """Looks at the weights of a policy.

    Example:
        >>> zero = np.zeros(4)
        >>> found = diagnose(Rounds(zero, np.array([2.0, 2.0, 0.0, 0.0]), zero, zero, np.arange(4)))
        >>> found.effective_rounds, found.overlap, found.mean_weight
        (2.0, 0.5, 1.0)
    """
    weight = rounds.weight
    total, n = float(weight.sum()), len(rounds)
    heaviest = np.partition(weight, n - max(1, int(n * TAIL)))[n - max(1, int(n * TAIL)) :]
    mean = Terms(weight)
    low, high = Normal().intervals({"weight": mean}, rounds.unit, 0.05)["weight"]
    spread = (high - low) / (2 * float(norm.isf(0.025)))
    off = abs(mean.value - 1)
    p = 2 * float(norm.sf(off / spread)) if spread > 0 else float(off < 1e-6)
    return Diagnostics(
        rounds=n,
        units=len(unit_sums(weight, rounds.unit)),
        effective_rounds=total**2 / float((weight**2).sum()) if total > 0 else 0.0,
        overlap=float((weight > 0).mean()),
        max_weight=float(weight.max()),
        tail_share=float(heaviest.sum()) / total if total > 0 else 1.0,
        mean_weight=mean.value,
        mean_weight_low=low,
        mean_weight_high=high,
        mean_weight_p=p,
        unsupported=rounds.unsupported,
    )


def refusals(found: Diagnostics, limits: Limits) -> list[str]:
    """Why nothing can be said of a policy, a sentence each; empty where something can."""
    said = []
    if found.unsupported > limits.unsupported:
        said.append(
            f"{found.unsupported:.2%} of the policy's recommendations are actions that were never logged at their "
            f"position, the limit is {limits.unsupported:.2%}: no reward of theirs is known. Log them with some "
            "chance, or evaluate a policy that leaves them out"
        )
    if found.effective_rounds < limits.effective_rounds:
        said.append(
            f"{found.rounds:,} rounds tell as much as {found.effective_rounds:.1f}, fewer than "
            f"{limits.effective_rounds:g}: the policy is too far from the one that logged. Log more, or more at random"
        )
    if not found.mean_weight_p >= limits.mean_weight_p:
        said.append(
            f"the mean weight is {found.mean_weight:.4g} ({found.mean_weight_low:.4g} to "
            f"{found.mean_weight_high:.4g}) and not 1: the propensities are not those of the policy that logged, or it "
            "could not take what this policy takes"
        )
    return said
