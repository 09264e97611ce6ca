"""Paired comparison of two methods that were run with several seeds on the same users."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES, LEVEL = 2000, 0.95


def two_way_comparison(
    first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Bootstrap over users and seeds at once.

    Users and seeds are drawn with replacement, each whole: a user keeps its values of all drawn seeds, and a seed those
    of all drawn users. Drawing pairs of both as if they were independent would give intervals that are too short.

    Source: Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007.

    Args:
        first: `[seeds, users]`.
        second: `[seeds, users]`, with the same users.
        seed: of the draws.
        resamples: how many.

    Returns:
        Means of both, the difference `second - first` with its interval, and a two-sided p-value: twice the share of
        resamples on the other side of 0, at least 1 / resamples.
    """
    difference = second.astype(np.float64) - first
    n_seeds, n_users = difference.shape
    random = np.random.default_rng(seed)
    of_seeds = random.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds
    of_users = random.multinomial(n_users, np.full(n_users, 1 / n_users), resamples) / n_users
    drawn = ((of_seeds @ difference) * of_users).sum(1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = min((drawn <= 0).mean(), (drawn >= 0).mean())
    return {
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": {
            "mean": float(difference.mean()),
            "low": float(low),
            "high": float(high),
            "level": LEVEL,
            "users": n_users,
        },
        "p_value": float(min(1.0, max(2 * beyond, 1 / resamples))),
    }
