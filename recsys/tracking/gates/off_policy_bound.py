"""What the challenger would have earned, as far as logged recommendations with known propensities can tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from recsys.tracking.gates.case import Contestant, PromotionCase
from recsys.tracking.gates.gate import Gate, GateError, Verdict


@dataclass(frozen=True)
class Bound:
    """An estimate of the mean reward of a recommendation.

    Attributes:
        low: lower confidence bound for the challenger.
        estimate: for the challenger.
        logged: mean reward that was logged.
    """

    low: float
    estimate: float
    logged: float


class OffPolicyEstimator(ABC):
    """Estimates what a model would have earned. A class of yours is named by `class_path`."""

    @abstractmethod
    def bound(self, log: Path, contestant: Contestant, level: float) -> Bound:
        """Estimates the mean reward of a model.

        Args:
            log: file of logged recommendations with propensities and rewards.
            contestant: the model.
            level: the lower bound is above the truth with a chance of `level` at most.
        """


class OffPolicyBound(Gate):
    """Passes where the lower bound of the challenger's reward is high enough. Without a log it is not run.

    Args:
        estimator: what reads the log.
        of_logged: the bound must reach this share of the logged mean reward.
        level: of the bound.

    Raises:
        GateError: share or level make no sense.
    """

    def __init__(self, estimator: OffPolicyEstimator, of_logged: float = 1.0, level: float = 0.05) -> None:
        if not (of_logged > 0 and 0 < level < 0.5):
            raise GateError(f"a positive share and a level between 0 and 0.5 are needed, not {of_logged} and {level}")
        self.estimator, self.of_logged, self.level = estimator, of_logged, level

    def check(self, case: PromotionCase) -> Verdict:
        limit = f"lower bound (level {self.level:g}) at least {self.of_logged:g} of what was logged"
        if case.bandit_log is None:
            return Verdict("OffPolicyBound", True, limit=limit, sentence="no bandit log was given", ran=False)
        found = self.estimator.bound(case.bandit_log, case.challenger, self.level)
        passed = found.low >= self.of_logged * found.logged
        sentence = f"at least {found.low:.4g} (estimate {found.estimate:.4g}), logged {found.logged:.4g}"
        return Verdict("OffPolicyBound", passed, dict(vars(found)), limit, sentence)
