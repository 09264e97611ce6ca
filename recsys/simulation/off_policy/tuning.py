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
_NOTHING = 1000.0
"""So many times the largest weight changes none."""


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

    `|v_i - v_j| <= (sqrt(6) - 1) c_i + c_j` for each `i` before `j`, with half-widths `c` of normal intervals at
    `level` divided by the number of estimators. It is within a constant factor of the best choice; the intervals leave
    room for a bias of several standard errors, so that in logs with much overlap it takes more bias than the other
    rules.

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
            if (apart > (math.sqrt(6) - 1) * half[:index] + half[index] + 1e-12).any():
                break
            chosen = index
        return chosen


class MSEEstimate:
    """The estimator with the smallest estimate of its mean squared error: variance plus squared bias.

    The bias is the mean of `(w - w') (r - q)` in the log, whose own luck counts as bias.

    Source: Su et al., "Doubly robust off-policy evaluation with shrinkage", ICML 2020, section 5.
    """

    def choose(self, family: Sequence[Reweighting], rounds: Rounds) -> int:
        return _least(family, rounds, lambda weights, rest: abs(_missing(rounds, weights, rest)))


class MSEBound:
    """The estimator with the smallest bound of its mean squared error: variance plus squared bound of the bias.

    Weights have a mean of 1, so that the bias is at most the weight that is lost, `1 - mean(w')`, times the largest
    residual. That needs no large weight to be in the log. It is at most the mean of `(w - w') (r - q)` as well, plus a
    Bernstein term for its luck; the smaller bound counts.

    Args:
        level: of the second bound.

    Source: Wang, Agarwal and Dudik, "Optimal and adaptive off-policy evaluation in contextual bandits", ICML 2017, for
    the first; Su et al., "Doubly robust off-policy evaluation with shrinkage", ICML 2020, for the second.
    """

    def __init__(self, level: float = 0.05) -> None:
        self.level = level

    def choose(self, family: Sequence[Reweighting], rounds: Rounds) -> int:
        n, said = len(rounds), math.log(2 / self.level)

        def bias(weights: NDArray[np.float64], rest: NDArray[np.float64]) -> float:
            missing = np.abs((rounds.weight - weights) * rest)
            luck = math.sqrt(2 * float((missing**2).mean()) * said / n) + 2 * float(missing.max()) * said / (3 * n)
            lost = max(0.0, 1 - float(weights.mean()))
            return min(float(np.abs(rest).max()) * lost, abs(_missing(rounds, weights, rest)) + luck)

        return _least(family, rounds, bias)


def _missing(rounds: Rounds, weights: NDArray[np.float64], rest: NDArray[np.float64]) -> float:
    """What an estimator lacks in the log by its changed weights."""
    return float(((rounds.weight - weights) * rest).mean())


def _least(
    family: Sequence[Reweighting],
    rounds: Rounds,
    bias: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
) -> int:
    """The estimator with the least variance plus squared bias, by its weights and what they weigh."""
    errors = []
    for estimator in family:
        rest = rounds.reward - rounds.predicted if estimator.models_rewards else rounds.reward
        variance = standard_error(estimator(rounds), rounds.unit) ** 2
        errors.append(variance + bias(estimator.weights(rounds.weight), rest) ** 2)
    return int(np.argmin(errors))


class Tuned:
    """A family of estimators with one parameter, which is chosen from the log.

    Args:
        family: makes the estimator of a parameter, such as `SwitchDR`.
        rule: chooses; None: by the estimate of the mean squared error.
        grid: parameters; None: quantiles of the weights, to the power `power`, and one that changes nothing.
        power: 1 where the parameter is compared with a weight, 2 where with its square.
    """

    def __init__(
        self,
        family: Callable[[float], Reweighting],
        rule: Rule | None = None,
        grid: Sequence[float] | None = None,
        power: int = 1,
    ) -> None:
        self.family, self.rule, self.grid, self.power = family, rule or MSEEstimate(), grid, power

    @property
    def name(self) -> str:
        """Of the family."""
        return self.family(1.0).name

    def chosen(self, rounds: Rounds) -> tuple[float, Reweighting]:
        """The parameter, and the estimator."""
        grid = self.grid
        if grid is None:
            positive = rounds.weight[rounds.weight > 0]
            scales = np.quantile(positive, _QUANTILES) ** self.power if len(positive) else np.ones(1)
            grid = [*scales, _NOTHING * scales[-1]]
        parameters = sorted({float(value) for value in grid}, reverse=True)
        family = [self.family(value) for value in parameters]
        index = self.rule.choose(family, rounds)
        return parameters[index], family[index]

    def __call__(self, rounds: Rounds) -> Terms:
        return self.chosen(rounds)[1](rounds)
