"""How many fewer sessions interleaving needs than an A/B test to tell two rankers apart.

Users come several times and differ in how much they click; each session has candidates of its own relevance, which a
ranker sees with some noise, and the better one with less. Clicks are those of the position-based model. An experiment
of either kind has the same users and sessions: an A/B test gives half of the users each list, interleaving both to all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from recsys.simulation.statistics.effect import ratio_effect
from recsys.simulation.statistics.interleaving import credit, interleaving_preference, team_draft
from recsys.unbiased.click_models import PositionBased

LENGTH, CANDIDATES = 10, 20
QUANTILE, NEEDED = float(norm.ppf(0.975)), float(norm.ppf(0.975) + norm.ppf(0.8))
"""Of the tests, and what the mean of a statistic must be for a power of 80 %."""


@dataclass(frozen=True)
class Comparison:
    """Two rankers and their users.

    Attributes:
        users: of an experiment.
        visits: sessions of each.
        worse: standard deviation of the noise of the worse ranker; relevance lies between 0 and 1.
        better: of the better one.
    """

    users: int
    visits: int
    worse: float
    better: float

    def lists(self, random: np.random.Generator) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
        """Chances of a click on each candidate once it is examined, and the lists of both rankers (items from 1)."""
        sessions = self.users * self.visits
        relevance = random.beta(0.5, 2.0, (sessions, CANDIDATES))
        activity = np.repeat(random.beta(1.0, 2.0, self.users), self.visits)
        ranked = []
        for noise in (self.worse, self.better):
            seen = relevance + noise * random.normal(size=relevance.shape)
            ranked.append(1 + np.argsort(-seen, axis=1)[:, :LENGTH])
        return relevance * activity[:, None], ranked

    def statistics(self, random: np.random.Generator, generator: torch.Generator) -> tuple[float, float]:
        """Studentised difference of clicks per session in an A/B test, and preference when interleaved."""
        who = np.repeat(np.arange(self.users), self.visits)
        chance, (worse, better) = self.lists(random)
        treated = random.random(self.users) < 0.5
        shown = np.where(treated[who][:, None], better, worse)
        clicks = np.bincount(who, self._clicks(chance, shown, generator).sum(1))
        visits = np.full(self.users, float(self.visits))
        effect = ratio_effect(clicks[~treated], visits[~treated], clicks[treated], visits[treated])
        ab = effect.difference / np.hypot(effect.control_error, effect.treatment_error)
        chance, (worse, better) = self.lists(random)
        mixed = team_draft(worse, better, LENGTH, random)
        found = interleaving_preference(credit(mixed.teams, self._clicks(chance, mixed.items, generator)), who)
        return float(ab), found.preference / ((found.high - found.low) / (2 * QUANTILE))

    @staticmethod
    def _clicks(chance: NDArray[np.float64], shown: NDArray[np.int64], generator: torch.Generator) -> NDArray[Any]:
        relevance = torch.from_numpy(np.take_along_axis(chance, shown - 1, axis=1)).float()
        return PositionBased().draw(relevance, torch.ones_like(relevance, dtype=torch.bool), generator).click.numpy()


def sensitivity(seed: int, experiments: int, comparison: Comparison, resamples: int = 2000) -> dict[str, Any]:
    """Ratio of the sessions that either test needs for the same power: that of the squared mean statistics.

    Args:
        seed: of everything.
        experiments: of each kind.
        comparison: what is compared.
        resamples: of the bootstrap over experiments, for the 95 % interval.
    """
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    found = np.array([comparison.statistics(random, generator) for _ in range(experiments)])
    means = found.mean(0)
    drawn = found[random.integers(0, experiments, (resamples, experiments))].mean(1)
    low, high = np.quantile((drawn[:, 1] / drawn[:, 0]) ** 2, [0.025, 0.975])
    sessions = comparison.users * comparison.visits
    return {
        "sessions": sessions,
        "users": comparison.users,
        "noise of the rankers": [comparison.worse, comparison.better],
        "mean statistic, A/B": float(means[0]),
        "mean statistic, interleaved": float(means[1]),
        "sessions for 80 % power, A/B": round(sessions * (NEEDED / means[0]) ** 2),
        "sessions for 80 % power, interleaved": round(sessions * (NEEDED / means[1]) ** 2),
        "ratio of sessions": {"value": float((means[1] / means[0]) ** 2), "low": float(low), "high": float(high)},
        "right sign, A/B": float((found[:, 0] > 0).mean()),
        "right sign, interleaved": float((found[:, 1] > 0).mean()),
    }
