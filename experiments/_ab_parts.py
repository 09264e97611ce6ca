"""Parts of the calibration of A/B statistics: each simulates experiments whose truth is known, and counts.

Users differ: a rate of visits from a gamma law of mean 1 and shape .5, a taste from a beta law of mean .2, the same
before and during the experiment. Clicks per user are Poisson of the rate: many users with none, few with many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from recsys.evaluation.intervals import wilson
from recsys.simulation.statistics.cuped import cuped
from recsys.simulation.statistics.effect import linearise, ratio_effect, welch
from recsys.simulation.statistics.planning import Users, minimum_detectable_effect, required_users
from recsys.simulation.statistics.sample_ratio import (
    SUSPICIOUS,
    sample_ratio_mismatch,
    sequential_sample_ratio_mismatch,
)
from recsys.simulation.statistics.sequential import (
    RunningSums,
    confidence_sequence,
    mixture_variance,
    running_difference,
)

Array = NDArray[np.float64]
SHAPE, CLICK_VARIANCE = 0.5, 3.0
"""Of the law of rates, and the variance of clicks that follows: `1 + 1 / SHAPE`."""
SHOWN, TASTE, SPREAD = 4.0, 0.2, 5.0
"""Mean impressions beyond the first of a user, mean chance of a click, and sum of the parameters of its beta law."""
FIRST_LOOK = 100


def share(found: int, of: int) -> dict[str, float | int]:
    """A share with its 99 % interval."""
    low, high = (float(end[0]) for end in wilson(np.array([found]), np.array([of]), 0.99))
    return {"found": found, "of": of, "share": found / of, "low": low, "high": high}


def clicks_of_users(random: np.random.Generator, *shape: int) -> tuple[Array, Array]:
    """Clicks per user before and during an experiment."""
    rates = random.gamma(SHAPE, 1 / SHAPE, shape)
    return random.poisson(rates).astype(np.float64), random.poisson(rates).astype(np.float64)


def impressions_of_users(random: np.random.Generator, users: int, taste: float = TASTE) -> list[tuple[Array, Array]]:
    """Clicks and impressions per user, before and during an experiment."""
    liking = random.beta(SPREAD * taste, SPREAD * (1 - taste), users)
    shown = [1 + random.poisson(SHOWN, users) for _ in range(2)]
    return [(random.binomial(of, liking).astype(np.float64), of.astype(np.float64)) for of in shown]


def fixed_tests(random: np.random.Generator, experiments: int, users: int, level: float) -> dict[str, Any]:
    """How often tests of fixed horizon find an effect in A/A tests, each test beside the others."""
    found = {
        "clicks per user, Welch": 0,
        "clicks per user, CUPED": 0,
        "amounts with a heavy tail, Welch": 0,
        "clicks per impression, delta method": 0,
        "clicks per impression, CUPED": 0,
        "clicks per impression, impressions taken as independent": 0,
    }
    for _ in range(experiments):
        before, during = clicks_of_users(random, 2, users)
        arms = [impressions_of_users(random, users) for _ in range(2)]
        earlier, now = (([linearise(*arm[period]) for arm in arms]) for period in (0, 1))
        p_values = [
            welch(*during).p_value,
            cuped(*during, *before).effect().p_value,
            welch(*random.lognormal(0, 1.5, (2, users))).p_value,
            ratio_effect(*arms[0][1], *arms[1][1]).p_value,
            cuped(*now, *earlier).effect().p_value,
            _two_shares([arm[1] for arm in arms]),
        ]
        for name, p in zip(found, p_values, strict=True):
            found[name] += p <= level
    return {name: share(count, experiments) for name, count in found.items()}


def peeking(
    random: np.random.Generator, experiments: int, users: int, level: float, points: int = 200
) -> dict[str, Any]:
    """A/A tests that are looked at after every user of each arm, from the hundredth on, and from the tenth on."""
    looks = np.arange(1, users + 1)
    mixture = mixture_variance(2 * CLICK_VARIANCE / users, level)
    daily = looks % max(1, users // 20) == 0
    shown = np.unique(np.linspace(FIRST_LOOK, users, points).astype(int)) - 1
    names = {
        "plain test, a look at every user": (False, looks >= FIRST_LOOK),
        "plain test, 20 looks": (False, daily),
        "confidence sequence, a look at every user": (True, looks >= FIRST_LOOK),
        "confidence sequence, from the 10th user on": (True, looks >= 10),
        "plain test, one look at the end": (False, looks == users),
    }
    ever = {name: np.zeros(users) for name in names}
    for size in _blocks(experiments, users):
        _, values = clicks_of_users(random, 2, size, users)
        difference, variance = running_difference(*(RunningSums.of(arm, looks) for arm in values))
        with np.errstate(invalid="ignore", divide="ignore"):
            plain = np.abs(difference) > norm.ppf(1 - level / 2) * np.sqrt(variance)
        sequence = confidence_sequence(difference, variance, mixture, level)
        outside = (sequence.low > 0) | (sequence.high < 0)
        for name, (sequential, seen) in names.items():
            rejected = (outside if sequential else plain) & seen
            ever[name] += np.maximum.accumulate(rejected, axis=1).sum(0)
    curves = {name: (count[shown] / experiments).round(5).tolist() for name, count in ever.items()}
    return {
        "at the end": {name: share(int(count[-1]), experiments) for name, count in ever.items()},
        "looks": (shown + 1).tolist(),
        "curves": curves,
    }


def stopping(random: np.random.Generator, experiments: int, users: int, level: float) -> dict[str, Any]:
    """What looking costs and saves, where a fixed test of `users` in each arm has a power of 80 %."""
    looks = np.arange(FIRST_LOOK, 2 * users + 1)
    planned = 2 * CLICK_VARIANCE / users
    effect = minimum_detectable_effect(math.sqrt(CLICK_VARIANCE), Users(users, users), level=level)
    rows: dict[str, Any] = {}
    for times in (1.0, 2.0):
        stops: list[Array] = []
        fixed = 0
        for size in _blocks(experiments, 2 * users):
            _, values = clicks_of_users(random, 2, size, 2 * users)
            values[1] += times * effect
            difference, variance = running_difference(*(RunningSums.of(arm, looks) for arm in values))
            found = confidence_sequence(difference, variance, mixture_variance(planned, level), level)
            outside = found.p_value <= level
            stops.append(np.where(outside.any(1), looks[outside.argmax(1)], np.inf))
            at = users - FIRST_LOOK
            fixed += int((np.abs(difference[:, at]) > norm.ppf(1 - level / 2) * np.sqrt(variance[:, at])).sum())
        stop = np.concatenate(stops)
        rows[f"{times:g} times the planned effect"] = {
            "fixed test at its end": share(fixed, experiments),
            "confidence sequence by then": share(int((stop <= users).sum()), experiments),
            "by 1.5 times as many users": share(int((stop <= 1.5 * users).sum()), experiments),
            "by twice as many users": share(int((stop <= 2 * users).sum()), experiments),
            "mean users until it stops, of those of the fixed test": float(np.minimum(stop, 2 * users).mean() / users),
        }
    return rows


def returning(random: np.random.Generator, experiments: int, users: int, days: int, level: float) -> dict[str, Any]:
    """A/A tests that are looked at daily while users come back, with a metric per impression and one per user."""
    names = [
        f"{metric}, {test}"
        for metric in ("clicks per impression so far", "clicks per user so far")
        for test in ("plain test, daily", "confidence sequence, daily", "plain test at the end")
    ]
    found = dict.fromkeys(names, 0)
    planned: dict[int, float] = {}
    for _ in range(experiments):
        visits = random.random((2, users, days)) < random.beta(0.5, 2.0, (2, users, 1))
        shown = np.where(visits, 1 + random.poisson(SHOWN, visits.shape), 0)
        liking = random.beta(SPREAD * TASTE, SPREAD * (1 - TASTE), (2, users, 1))
        clicks = random.binomial(shown, liking).cumsum(2).astype(np.float64)
        for place, below in enumerate((shown.cumsum(2).astype(np.float64), np.ones_like(clicks))):
            ratio = clicks.sum(1) / below.sum(1)
            left = clicks - ratio[:, None] * below
            variance = ((left**2).sum(1) / (users - 1) / users / below.mean(1) ** 2).sum(0)
            difference = ratio[1] - ratio[0]
            # Known before the start, as that of an earlier experiment is.
            mixture = planned.setdefault(place, mixture_variance(float(variance[-1]), level))
            plain = np.abs(difference) > norm.ppf(1 - level / 2) * np.sqrt(variance)
            p = confidence_sequence(difference, variance, mixture, level).p_value[-1]
            for name, wrong in zip(names[3 * place :], (plain.any(), p <= level, plain[-1]), strict=False):
                found[name] += bool(wrong)
    return {name: share(count, experiments) for name, count in found.items()}


def power(random: np.random.Generator, experiments: int, level: float) -> dict[str, Any]:
    """Planned and reached power: means, ratios, unequal arms, and with a covariate."""
    rows: dict[str, Any] = {}

    def row(name: str, planned: float, users: Users, found: int) -> None:
        rows[name] = {"planned": planned, "users": list(users), **share(found, experiments)}

    for planned, treated in ((0.8, 0.5), (0.9, 0.5), (0.8, 0.2)):
        users = required_users(0.25, math.sqrt(CLICK_VARIANCE), power=planned, level=level, share=treated)
        found = 0
        for _ in range(experiments):
            arms = [clicks_of_users(random, n)[1] for n in users]
            found += welch(arms[0], arms[1] + 0.25).p_value <= level
        row(f"clicks per user, power {planned:.0%}, {treated:.0%} treated", planned, users, found)
    tastes = TASTE, TASTE + 0.02
    spread = [linearise(*impressions_of_users(random, 200_000, taste)[1]).var() for taste in tastes]
    users = required_users(0.02, math.sqrt(float(np.mean(spread))), level=level)
    found = 0
    for _ in range(experiments):
        arms = [impressions_of_users(random, n, taste)[1] for n, taste in zip(users, tastes, strict=True)]
        found += ratio_effect(*arms[0], *arms[1]).p_value <= level
    row("clicks per impression, power 80%", 0.8, users, found)
    before, during = clicks_of_users(random, 2, 200_000)
    reduction = cuped(*during, *before).reduction
    users = required_users(0.25, math.sqrt(CLICK_VARIANCE * (1 - reduction)), level=level)
    found = 0
    for _ in range(experiments):
        pairs = [clicks_of_users(random, n) for n in users]
        found += cuped(pairs[0][1], pairs[1][1] + 0.25, pairs[0][0], pairs[1][0]).effect().p_value <= level
    row("clicks per user with CUPED, power 80%", 0.8, users, found)
    return rows


def cuped_reductions(random: np.random.Generator, users: int) -> dict[str, Any]:
    """Variance that CUPED takes away, against the squared correlation, and users it saves."""
    rows: dict[str, Any] = {}
    for correlation in (0.0, 0.3, 0.5, 0.7, 0.9):
        before = random.normal(size=(2, users))
        during = correlation * before + math.sqrt(1 - correlation**2) * random.normal(size=(2, users))
        rows[f"normal values, correlation {correlation:g}"] = _reduction(list(during), list(before), correlation**2)
    before, during = clicks_of_users(random, 2, users)
    # The rates are what both periods share: their variance over that of clicks is the correlation.
    rows["clicks per user"] = _reduction(list(during), list(before), (1 / SHAPE / CLICK_VARIANCE) ** 2)
    arms = [impressions_of_users(random, users) for _ in range(2)]
    earlier, now = ([linearise(*arm[period]) for arm in arms] for period in (0, 1))
    rows["clicks per impression"] = _reduction(now, earlier, None)
    return rows


def sample_ratio(random: np.random.Generator, experiments: int, users: int) -> dict[str, Any]:
    """False alarms of both tests of the split, with a look at every user for the sequential one, and what they find."""
    rows: dict[str, Any] = {}
    for treated in (0.5, 0.52):
        chi_square = sequential = sequential_5 = chi_square_5 = 0
        for _ in range(experiments):
            counts = (random.random(users) < treated).cumsum()
            looks = np.column_stack([np.arange(1, users + 1) - counts, counts])
            p = sample_ratio_mismatch(looks[-1])
            always = float(sequential_sample_ratio_mismatch(looks)[-1])
            chi_square += p < SUSPICIOUS
            sequential += always < SUSPICIOUS
            chi_square_5 += p <= 0.05
            sequential_5 += always <= 0.05
        rows[f"{treated:.0%} treated, {users:,} users"] = {
            f"chi-square below {SUSPICIOUS:g}": share(chi_square, experiments),
            f"sequential below {SUSPICIOUS:g}": share(sequential, experiments),
            "chi-square at 0.05": share(chi_square_5, experiments),
            "sequential at 0.05": share(sequential_5, experiments),
        }
    return rows


def _reduction(during: list[Array], before: list[Array], expected: float | None) -> dict[str, float | None]:
    adjusted = cuped(during[0], during[1], before[0], before[1])
    measured = 1 - (adjusted.effect().control_error / welch(*during).control_error) ** 2
    return {"squared correlation": expected, "reduction": adjusted.reduction, "of the variance of the mean": measured}


def _two_shares(arms: list[tuple[Array, Array]]) -> float:
    """The two-sided p-value of a test that takes each impression as a user."""
    (a, n), (b, m) = ((float(clicks.sum()), float(shown.sum())) for clicks, shown in arms)
    both = (a + b) / (n + m)
    statistic = (b / m - a / n) / math.sqrt(both * (1 - both) * (1 / n + 1 / m))
    return math.erfc(abs(statistic) / math.sqrt(2))


def _blocks(experiments: int, users: int) -> Iterator[int]:
    """Sizes of blocks of experiments that are drawn at once."""
    block = max(1, 1_000_000 // users)
    for start in range(0, experiments, block):
        yield min(block, experiments - start)
