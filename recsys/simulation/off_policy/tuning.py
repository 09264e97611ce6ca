"""Hyper-parameters of estimators, chosen from the log itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from recsys.simulation.off_policy.intervals import standard_error
from recsys.simulation.off_policy.rounds import Rounds
from recsys.simulation.off_policy.terms import Estimator, Terms

_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 1.0)


class Reweighting(Estimator, Protocol):
    """An estimator that changes the weights of rounds, with a parameter in which bias falls and variance grows."""

    @property
    def models_rewards(self) -> bool:
        """Whether what it weighs is the residual of a model, and not the reward."""

    def weights(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """What weights `[N]` become."""


class Rule(Protocol):
    """Chooses among estimators."""

    def choose(self, family: Sequence[Reweighting], rounds: Rounds) -> int:
        """The index of one of them; they are in order of growing bias."""


class Slope:
    """The most biased estimator whose interval still agrees with those of all less biased ones.

    `|v_i - v_j| <= c_i + (sqrt(6) - 1) c_j` for each `i` before `j`, with half-widths `c` of normal intervals at
    `level` divided by the number of estimators.

    Args:
        level: of the intervals together.

    Source: Su, Srinath and Krishnamurthy, "Adaptive estimator selection for off-policy evaluation", ICML 2020; Tucker
    and Lee, "Improved estimator selection for off-policy evaluation", 2021, for the constant.
    """

    def __init__(self, level: float = 0.05) -> None:
        self.level = level

    def choose(self, family: Sequence[Reweighting], rounds: Rounds) -> int:
        terms = [estimator(rounds) for estimator in family]
        z = float(norm.isf(self.level / (2 * len(family))))
        values = np.array([each.value for each in terms])
        half = z * np.array([standard_error(each, rounds.unit) for each in terms])
        chosen = 0
        for index in range(1, len(family)):
            apart = np.abs(values[:index] - values[index])
            if (apart > half[:index] + (math.sqrt(6) - 1) * half[index] + 1e-12).any():
                break
            chosen = index
        return chosen


class MSEBound:
    """The estimator with the smallest bound of its mean squared error: variance plus squared bound of the bias.

    The bias is at most the mean of `(w - w') (r - q)` in the log, plus a Bernstein term of the weights and the largest
    residual for its luck.

    Args:
        level: of the bound of the bias.

    Source: Su et al., "Doubly robust off-policy evaluation with shrinkage", ICML 2020, section 5.
    """

    def __init__(self, level: float = 0.05) -> None:
        self.level = level

    def choose(self, family: Sequence[Reweighting], rounds: Rounds) -> int:
        n = len(rounds)
        said = math.log(2 / self.level)
        bounds = []
        for estimator in family:
            lost = rounds.weight - estimator.weights(rounds.weight)
            rest = rounds.reward - rounds.predicted if estimator.models_rewards else rounds.reward
            missing = lost * rest
            bias = abs(float(missing.mean()))
            bias += math.sqrt(2 * float((missing**2).mean()) * said / n)
            bias += 2 * float(np.abs(missing).max()) * said / (3 * n)
            bounds.append(standard_error(estimator(rounds), rounds.unit) ** 2 + bias**2)
        return int(np.argmin(bounds))


class Tuned:
    """A family of estimators with one parameter, which is chosen from the log.

    Args:
        family: makes the estimator of a parameter, such as `SwitchDR`.
        rule: chooses.
        grid: parameters; None: quantiles of the weights, to the power `power`, and infinity.
        power: 1 where the parameter is compared with a weight, 2 where with its square.
    """

    def __init__(
        self,
        family: Callable[[float], Reweighting],
        rule: Rule | None = None,
        grid: Sequence[float] | None = None,
        power: int = 1,
    ) -> None:
        self.family, self.rule, self.grid, self.power = family, rule or MSEBound(), grid, power

    @property
    def name(self) -> str:
        """Of the family."""
        return self.family(1.0).name

    def chosen(self, rounds: Rounds) -> tuple[float, Reweighting]:
        """The parameter, and the estimator."""
        grid = self.grid
        if grid is None:
            positive = rounds.weight[rounds.weight > 0]
            grid = [] if not len(positive) else list(np.quantile(positive, _QUANTILES) ** self.power)
            grid = [*grid, math.inf]
        parameters = sorted({float(value) for value in grid}, reverse=True)
        family = [self.family(value) for value in parameters]
        index = self.rule.choose(family, rounds)
        return parameters[index], family[index]

    def __call__(self, rounds: Rounds) -> Terms:
        return self.chosen(rounds)[1](rounds)
