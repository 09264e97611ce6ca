"""Paired tests of a challenger against a champion, several metrics and tasks at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.intervals import compare, p_greater
from recsys.evaluation.multiplicity import holm
from recsys.tracking.gates.case import Pair, PromotionCase
from recsys.tracking.gates.gate import GateError

Values = NDArray[np.float64]
RESAMPLES = 10_000


@dataclass(frozen=True)
class Margin:
    """How far the challenger's bar is from the champion.

    Attributes:
        relative: share of the champion's mean. It moves with the champion, user by user.
        absolute: in units of the metric.
    """

    relative: float = 0.0
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.relative < 1 and self.absolute >= 0):
            raise GateError(f"a margin is relative, 0 to 1, or absolute, from 0 on, not {self}")

    def __str__(self) -> str:
        parts = [f"{self.relative:.1%}"] * (self.relative > 0) + [f"{self.absolute:g}"] * (self.absolute > 0)
        return " and ".join(parts) or "0"

    def above(self, values: Values) -> Values:
        """What is better than `values` by the margin."""
        return values * (1 + self.relative) + self.absolute

    def below(self, values: Values) -> Values:
        """What is worse than `values` by the margin."""
        return values * (1 - self.relative) - self.absolute


@dataclass(frozen=True)
class Sample:
    """Values of champion and challenger on the same rows.

    Attributes:
        name: of the metric, with task and slice.
        champion: `[R]` float64; NaN where nothing is to be found.
        challenger: `[R]` float64, likewise.
        users: `[R]` who asks.
        metric: as in the evaluation.
    """

    name: str
    champion: Values
    challenger: Values
    users: NDArray[np.int64]
    metric: str


@dataclass(frozen=True)
class Finding:
    """A test.

    Attributes:
        name: of the sample.
        champion: mean.
        challenger: mean.
        low: lower end of the interval of the difference `challenger - champion`.
        high: its upper end.
        p: adjusted by Holm for all tests made together.
    """

    name: str
    champion: float
    challenger: float
    low: float
    high: float
    p: float

    def numbers(self) -> dict[str, float]:
        """All of it by name."""
        return {f"{self.name} {key}": value for key, value in vars(self).items() if key != "name"}

    def __str__(self) -> str:
        return f"{self.name} {self.challenger:.4f} against {self.champion:.4f} (p {self.p:.2g})"


def samples(case: PromotionCase, metrics: Sequence[str], tasks: Sequence[str] | None) -> list[Sample]:
    """The values of metrics of requests.

    Args:
        case: champion and challenger.
        metrics: at least one.
        tasks: of the requests; None: all.

    Raises:
        GateError: there is no such metric or task.
    """
    pairs = list(case.pairs())
    missing = set(tasks or ()) - {str(pair.task) for pair in pairs}
    if missing or not metrics:
        raise GateError(f"no task {', '.join(sorted(missing))}" if missing else "name one metric at least")
    chosen = [pair for pair in pairs if tasks is None or pair.task in tasks]
    return [_sample(pair, metric) for pair in chosen for metric in metrics]


def tested(
    found: Sequence[Sample],
    margin: Margin,
    claim: Literal["better", "not worse", "worse"],
    level: float,
    seed_sd: Mapping[str, float] | None = None,
    resamples: int | None = None,
) -> list[Finding]:
    """One-sided tests of one claim about the challenger in each sample.

    Args:
        found: the samples.
        margin: better by more than it, not worse by it or more, or worse by more than it.
        claim: what a small p-value shows.
        level: of the tests; the intervals are two-sided, at `1 - 2 * level`, and not adjusted.
        seed_sd: as in `p_greater`.
        resamples: of the bootstrap; None: `RESAMPLES`.
    """
    drawn = resamples or RESAMPLES
    p_values, intervals = [], []
    for sample in found:
        bar = margin.above(sample.champion) if claim == "better" else margin.below(sample.champion)
        sides = (sample.challenger, bar) if claim == "worse" else (bar, sample.challenger)
        low, high = ({sample.metric: values} for values in sides)
        p = p_greater(low, high, users=sample.users, seed_sd=seed_sd, resamples=drawn)
        p_values.append(p[sample.metric])
        both = ({sample.metric: values} for values in (sample.champion, sample.challenger))
        intervals.append(compare(*both, users=sample.users, level=1 - 2 * level, resamples=drawn)[sample.metric])
    return [
        Finding(sample.name, c.first, c.second, c.difference.low, c.difference.high, p)
        for sample, c, p in zip(found, intervals, holm(p_values), strict=True)
    ]


def all_numbers(found: Sequence[Finding]) -> dict[str, float]:
    """The numbers of all tests by name."""
    return {name: value for test in found for name, value in test.numbers().items()}


def check_level(level: float) -> None:
    """Refuses a level that no test has.

    Raises:
        GateError: it is not between 0 and 1/2.
    """
    if not 0 < level < 0.5:
        raise GateError(f"the level of a test lies between 0 and 0.5, not {level}")


def _sample(pair: Pair, metric: str) -> Sample:
    for evaluation in (pair.champion, pair.challenger):
        if metric not in evaluation.metrics:
            raise GateError(f"no metric `{metric}` of requests; there are {', '.join(evaluation.metrics)}")
    if not np.array_equal(pair.champion.users, pair.challenger.users):
        raise GateError("champion and challenger judge different users; nothing can be paired")
    first, second = (np.asarray(e.metrics[metric], dtype=np.float64) for e in (pair.champion, pair.challenger))
    return Sample(pair.named(metric), first, second, pair.champion.users, metric)
