"""Whether users came to the arms in the shares that were planned. Where not, nothing else may be read."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import gammaln

from recsys.simulation.statistics.effect import ExperimentError

SUSPICIOUS = 0.001
"""Level below which a mismatch is believed: the test stands beside every experiment, and most have none."""


def sample_ratio_mismatch(counts: ArrayLike, shares: ArrayLike = (0.5, 0.5)) -> float:
    """p-value of the chi-square test that users were assigned in the planned shares, for one look.

    Args:
        counts: `[K]` users by arm.
        shares: `[K]` planned shares, positive; they need not sum to 1.

    Raises:
        ExperimentError: lengths differ, there is no user, or a share is not positive.

    Source:
        Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019.

    Example:
        >>> round(sample_ratio_mismatch([50_400, 49_600]), 4)
        0.0114
    """
    observed, planned = _checked(np.asarray(counts, np.float64)[None], shares)
    return float(stats.chisquare(observed[0], planned * observed.sum()).pvalue)


def sequential_sample_ratio_mismatch(
    counts: ArrayLike, shares: ArrayLike = (0.5, 0.5), concentration: float = 1000.0
) -> NDArray[np.float64]:
    """Always-valid p-values of the same hypothesis: with a chance of `level` at most one ever falls to `level`.

    A Bayes factor of Dirichlet-multinomial shares around the planned ones against the planned ones. It is exact, at
    every user if need be.

    Args:
        counts: `[T, K]` users by arm so far, at each look.
        shares: `[K]` planned shares.
        concentration: how close to the plan a mismatch is expected; at 1,000 half is off by some 1.6 points.

    Returns:
        `[T]` float64 that never rise.

    Raises:
        ExperimentError: as `sample_ratio_mismatch`, or counts fall.
        ValueError: the concentration is not positive.

    Source:
        Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022.

    Example:
        >>> sequential_sample_ratio_mismatch([[500, 500], [1000, 1200], [2000, 2500]]).round(5)
        array([1.     , 0.00343, 0.     ])
    """
    observed, planned = _checked(np.asarray(counts, np.float64), shares)
    if (np.diff(observed, axis=0) < 0).any():
        raise ExperimentError("counts of users so far never fall; give the sums up to each look")
    if not concentration > 0:
        raise ValueError(f"concentration must be positive, not {concentration}")
    prior = concentration * planned
    log_factor = gammaln(concentration) - gammaln(concentration + observed.sum(1))
    log_factor += (gammaln(prior + observed) - gammaln(prior) - observed * np.log(planned)).sum(1)
    return np.minimum.accumulate(np.exp(-np.maximum(log_factor, 0.0)))


def _checked(counts: NDArray[np.float64], shares: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    planned = np.asarray(shares, np.float64)
    if planned.ndim != 1 or not (planned > 0).all() or counts.ndim != 2 or counts.shape[1] != len(planned):
        raise ExperimentError(
            f"one positive share for each arm is needed, not {planned.tolist()} for {counts.shape[-1]}"
        )
    if not (counts >= 0).all() or not len(counts) or not counts[-1].sum() > 0:
        raise ExperimentError("counts of users are not negative, and there must be some")
    return counts, planned / planned.sum()
