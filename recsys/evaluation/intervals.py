"""How sure a number is: bootstrap over users, paired comparison of two runs, spread over seeds.

A resample draws as many users as there are, with replacement, each with all of its rows: where a user stands in several
rows (searches, say), these are no independent draws, and resampling rows would give intervals that are too short
(Field and Welsh, "Bootstrapping clustered data", JRSS B 2007). The mean is taken over the rows drawn. Users with equal
values are exchangeable, so a resample is drawn as a multinomial count over the distinct values; this is the same
distribution, and cheap, because ranks take few values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

Metrics = Mapping[str, ArrayLike]
"""Metric name -> `[U]` values, one per user or one per request."""

BUDGET_BYTES = 64 * 2**20
"""Most memory that the counts of the resamples take at a time."""


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval.

    Attributes:
        mean: over the rows that have a value.
        low: lower end.
        high: upper end.
        level: confidence level.
        users: number of users that have a value.
    """

    mean: float
    low: float
    high: float
    level: float
    users: int


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same rows.

    Attributes:
        first: mean of the first run.
        second: mean of the second run.
        difference: `second - first`, with its interval.
        p_value: two-sided; how often chance alone, in drawing the users, gives a difference at least this large.
    """

    first: float
    second: float
    difference: Interval
    p_value: float


@dataclass(frozen=True)
class Spread:
    """Values of one metric over seeds.

    Attributes:
        mean: of the values.
        sd: sample standard deviation (`n - 1`); NaN for a single value.
        values: one per seed.
    """

    mean: float
    sd: float
    values: tuple[float, ...]


def bootstrap(
    metrics: Metrics,
    *,
    users: ArrayLike | None = None,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals of the means over rows, users being resampled.

    Rows without a value (NaN in any metric) are left out. Needs at most `BUDGET_BYTES` beside the values.

    Args:
        metrics: `[U]` values per row, by name.
        users: `[U]` the user of each row; None: every row is a user.
        resamples: number of bootstrap samples.
        level: confidence level.
        seed: of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: no row has a value, lengths differ, or level or resamples make no sense.

    Example:
        >>> bootstrap({"HR@10": [1.0, 0.0, 1.0, 1.0]}, resamples=200)["HR@10"].mean
        0.75
    """
    names, values, owner = _matrix(metrics, users)
    return dict(
        zip(names, _intervals(values, owner, _means(values, owner, resamples, level, seed), level), strict=True)
    )


def compare(
    first: Metrics,
    second: Metrics,
    *,
    users: ArrayLike | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Paired bootstrap of `second - first`, metric by metric: rows are paired, users resampled.

    The p-value is `(1 + #{|d* - d| >= |d|}) / (1 + resamples)`, with `d` the observed and `d*` the resampled mean
    differences (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 16.4).

    Args:
        first: `[U]` values per row, by name.
        second: values of the same rows in the same order, with the same names.
        users: `[U]` the user of each row; None: every row is a user.
        resamples: number of bootstrap samples.
        level: confidence level.
        seed: of the resampling.

    Raises:
        ValueError: the runs have different metrics, numbers of rows, or rows without a value.
    """
    names, difference, owner = _paired(first, second, users)
    means = _means(difference, owner, resamples, level, seed)
    observed = difference.mean(0)
    # The tolerance counts a resample equal to the observation in spite of rounding.
    extreme = (np.abs(means - observed) >= np.abs(observed) - 1e-12).sum(0)
    p_values = (1 + extreme) / (1 + resamples)
    intervals = _intervals(difference, owner, means, level)
    a, b = (_matrix(run, users)[1] for run in (first, second))
    return {
        name: Comparison(float(a[:, m].mean()), float(b[:, m].mean()), intervals[m], float(p_values[m]))
        for m, name in enumerate(names)
    }


def p_greater(
    first: Metrics,
    second: Metrics,
    *,
    users: ArrayLike | None = None,
    seed_sd: Mapping[str, float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    """One-sided p-values of `second > first`, metric by metric, by the paired bootstrap of `compare`.

    `(1 + #{d* - d >= d}) / (1 + resamples)`: how often chance alone, in drawing the users, gives a difference at least
    this high. Users alone are drawn: of two trainings that differ in their seed one is a little better in truth, and
    enough users show it. With `seed_sd` chance draws both trainings as well: `sqrt(2) * seed_sd * z`, z standard
    normal, is added to each resampled difference.

    Args:
        first: `[U]` values per row, by name.
        second: values of the same rows in the same order, with the same names.
        users: `[U]` the user of each row; None: every row is a user.
        seed_sd: standard deviation over seeds of the mean of each metric, such as `over_seeds` gives; None: 0.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: as in `compare`, or a metric has no standard deviation, or one that is no number from 0 on.

    Example:
        >>> p_greater({"HR@10": [0.0, 0.0, 1.0]}, {"HR@10": [0.0, 0.0, 1.0]}, resamples=99)
        {'HR@10': 1.0}
    """
    names, difference, owner = _paired(first, second, users)
    spread = np.array([0.0 if seed_sd is None else seed_sd.get(name, np.nan) for name in names])
    if not (np.isfinite(spread) & (spread >= 0)).all():
        raise ValueError(f"seed_sd needs a number from 0 on for each of {', '.join(names)}, not {seed_sd}")
    observed = difference.mean(0)
    excess = _means(difference, owner, resamples, 0.95, seed) - 2 * observed + 1e-12  # counts ties, as in `compare`
    scale = np.sqrt(2) * spread
    chance = np.where(scale > 0, norm.cdf(excess / np.where(scale > 0, scale, 1.0)), excess >= 0)
    return dict(zip(names, ((1 + chance.sum(0)) / (1 + resamples)).tolist(), strict=True))


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one metric over seeds.

    Example:
        >>> over_seeds([1.0, 2.0, 3.0]).sd
        1.0
    """
    if not values:
        raise ValueError("no value to summarise")
    array = np.asarray(values, dtype=np.float64)
    sd = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
    return Spread(float(array.mean()), sd, tuple(float(value) for value in array))


def wilson(found: NDArray[Any], n: NDArray[Any], level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score intervals of shares `found / n` of independent trials (Wilson, JASA 1927).

    Args:
        found: `[S]` successes.
        n: `[S]` trials, at least one each.
        level: confidence level.

    Returns:
        Lower and upper ends, `[S]` float64 each.

    Example:
        >>> low, high = wilson(np.array([5]), np.array([10]), 0.95)
        >>> round(float(low[0]), 4), round(float(high[0]), 4)
        (0.2366, 0.7634)
    """
    share = found / n
    z = norm.ppf((1 + level) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # The interval holds the share; at 0 and at 1 rounding may put its end a hair beyond.
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


def _defined(metrics: Metrics) -> NDArray[np.bool_]:
    columns = [np.asarray(value, dtype=np.float64) for value in metrics.values()]
    if not columns or any(column.shape != columns[0].shape or column.ndim != 1 for column in columns):
        raise ValueError("every metric needs one value per row, and there must be one metric at least")
    return np.asarray(~np.isnan(np.stack(columns)).any(axis=0))


def _matrix(metrics: Metrics, users: ArrayLike | None) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Names, and of the rows that have any: values `[R, M]` and the user of each `[R]`, numbered from 0."""
    defined = _defined(metrics)
    if not defined.any():
        raise ValueError("no row has a value")
    values = np.stack([np.asarray(value, np.float64)[defined] for value in metrics.values()], axis=1)
    if users is None:
        return list(metrics), values, np.arange(len(values))
    ids = np.asarray(users)
    if ids.shape != defined.shape:
        raise ValueError(f"{len(ids)} users for {len(defined)} rows of values")
    return list(metrics), values, np.unique(ids[defined], return_inverse=True)[1].astype(np.int64)


def _paired(
    first: Metrics, second: Metrics, users: ArrayLike | None
) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """`_matrix` of `second - first`."""
    if list(first) != list(second):
        raise ValueError(f"the runs have different metrics: {sorted(set(first) ^ set(second)) or 'other order'}")
    names, a, owner = _matrix(first, users)
    _, b, _ = _matrix(second, users)
    if a.shape != b.shape or not np.array_equal(_defined(first), _defined(second)):
        raise ValueError(f"the runs judge different users ({len(a)} and {len(b)} with a value); nothing can be paired")
    return names, b - a, owner


def _means(
    values: NDArray[np.float64], owner: NDArray[np.int64], resamples: int, level: float, seed: int
) -> NDArray[np.float64]:
    """`[resamples, M]` means over the rows `values` `[R, M]` of users `owner` `[R]` drawn with replacement."""
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be positive and level within (0, 1), not {resamples} and {level}")
    of_user = [np.bincount(owner), *(np.bincount(owner, column) for column in values.T)]
    distinct, counts = _distinct_rows(np.column_stack(of_user))
    rows, sums = distinct[:, 0], np.ascontiguousarray(distinct[:, 1:])
    random = np.random.default_rng(seed)
    users = int(counts.sum())
    block = max(1, BUDGET_BYTES // (16 * len(distinct)))
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = random.multinomial(users, counts / users, size=size).astype(np.float64)
        means[start : start + size] = drawn @ sums / (drawn @ rows)[:, None]
    return means


def _distinct_rows(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct rows and how often each occurs."""
    order = np.lexsort(values.T)
    ordered = values[order]
    first = np.flatnonzero(np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(1)]))
    return ordered[first], np.diff(np.append(first, len(values)))


def _intervals(
    values: NDArray[np.float64], owner: NDArray[np.int64], means: NDArray[np.float64], level: float
) -> list[Interval]:
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    ends: Any = zip(values.mean(0), low, high, strict=True)
    users = len(np.unique(owner))
    return [Interval(float(mean), float(a), float(b), level, users) for mean, a, b in ends]
