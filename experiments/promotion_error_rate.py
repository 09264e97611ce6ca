"""How often a gate is passed by luck, and how often by a model that is better, over many simulated promotions.

Champion and challenger are simulated on the requests of users who differ in how easy they are, and get the same list
from both for a share of them. Hit rate and spread over seeds are those of SynerGen on Amazon Beauty as published in
`experiments/results`. Writes `experiments/results/promotion/error_rate.json`.

    python experiments/promotion_error_rate.py
    python experiments/promotion_error_rate.py --promotions 20 --users 2000 --out runs/error_rate.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _made_by import made_by
from _results import write_json
from _runs import ROOT, say

from recsys.evaluation.intervals import wilson
from recsys.tracking.gates.paired import Margin, Sample, tested

RESULTS = Path("experiments/results")
PUBLISHED = RESULTS / "amazon_beauty/leave_last_out_strict/synergen.json"
METRICS = ("NDCG@10", "HR@10")
K = 10
WIDE = 5.0
"""Spread over seeds of a model that is more a matter of luck, in units of the published one."""
MARGIN = 0.05
"""Relative margin of non-inferiority."""
SPREAD_OF_USERS = 0.5
"""First parameter of the beta law of a user's chance of a hit: below 1, so that most users are hard."""


@dataclass(frozen=True)
class World:
    """What promotions are drawn from.

    Attributes:
        users: requests, one each.
        hit_rate: mean chance that the item to be found is among the first ten.
        seed_sd: standard deviation of that over trainings, as a share of it.
        agree: share of the users who get the same list from both.
    """

    users: int
    hit_rate: float
    seed_sd: float
    agree: float

    def promotion(self, random: np.random.Generator, gain: float, luck: float) -> list[Sample]:
        """Values of champion and challenger.

        Args:
            random: draws everything.
            gain: of the challenger's hit rate over the champion's, in truth, as a share.
            luck: of each training, in units of the spread over seeds; 0: none.
        """
        ease = random.beta(SPREAD_OF_USERS, SPREAD_OF_USERS * (1 - self.hit_rate) / self.hit_rate, self.users)
        worth = 1 + luck * random.normal(0, self.seed_sd, 2)
        # One chance decides for users who get the same list, so that the better model has the other's hits and more.
        chances, ranks = random.random((3, self.users)), self._ranks(random, (3, self.users))
        same = random.random(self.users) < self.agree
        values = []
        for model, ease_of in enumerate((worth[0], (1 + gain) * worth[1])):
            place = np.where(same, 0, model + 1), np.arange(self.users)
            hit = chances[place] < ease * ease_of
            values.append({"NDCG@10": np.where(hit, 1 / np.log2(ranks[place] + 1), 0.0), "HR@10": hit.astype(float)})
        users = np.arange(self.users)
        return [Sample(name, values[0][name], values[1][name], users, name) for name in METRICS]

    def spread_over_seeds(self, ndcg_of_a_hit: float) -> dict[str, float]:
        """Standard deviation over trainings of the mean of each metric."""
        of_hits = self.seed_sd * self.hit_rate
        return {"NDCG@10": of_hits * ndcg_of_a_hit, "HR@10": of_hits}

    @staticmethod
    def _ranks(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        law = 1 / np.arange(1, K + 1)
        return random.choice(np.arange(1, K + 1), shape, p=law / law.sum())


def ndcg_of_a_hit() -> float:
    """Mean NDCG of a hit under the law of ranks."""
    rank = np.arange(1, K + 1)
    return float(np.average(1 / np.log2(rank + 1), weights=1 / rank))


def scenarios(
    world: World, level: float, resamples: int
) -> dict[str, tuple[float, float, Callable[[list[Sample]], bool]]]:
    """Gain, luck of a training, and what a gate says, by name."""
    sd = world.spread_over_seeds(ndcg_of_a_hit())

    def superior(found: list[Sample]) -> bool:
        return any(test.p <= level for test in tested(found, Margin(), "better", level, resamples=resamples))

    def superior_to_luck(found: list[Sample], luck: float = 1.0) -> bool:
        of_seeds = {name: luck * value for name, value in sd.items()}
        return any(test.p <= level for test in tested(found, Margin(), "better", level, of_seeds, resamples))

    def not_inferior(found: list[Sample]) -> bool:
        tests = tested(found, Margin(relative=MARGIN), "not worse", level, resamples=resamples)
        return all(test.p <= level for test in tests)

    made = {
        "superiority, equal models": (0.0, 0.0, superior),
        "superiority, the champion trained again": (0.0, 1.0, superior),
        "superiority with seed_sd, the champion trained again": (0.0, 1.0, superior_to_luck),
        f"superiority, trained again, seeds {WIDE:g} times as far apart": (0.0, WIDE, superior),
        f"superiority with seed_sd, trained again, seeds {WIDE:g} times as far apart": (
            0.0,
            WIDE,
            partial(superior_to_luck, luck=WIDE),
        ),
        f"non-inferiority by {MARGIN:.0%}, equal models": (0.0, 0.0, not_inferior),
        f"non-inferiority by {MARGIN:.0%}, worse by {MARGIN:.0%}": (-MARGIN, 0.0, not_inferior),
    }
    for gain in (0.02, 0.05, 0.1):
        made[f"superiority, better by {gain:.0%}"] = gain, 0.0, superior
        made[f"superiority with seed_sd, better by {gain:.0%}"] = gain, 1.0, superior_to_luck
    return made


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    published = json.loads((ROOT / PUBLISHED).read_text(encoding="utf-8"))["metrics"]["HR@10"]
    world = World(given.users, published["mean"], published["sd"] / published["mean"], given.agree)
    found: dict[str, Any] = {}
    started = time.perf_counter()
    for number, (name, (gain, luck, passes)) in enumerate(scenarios(world, given.level, given.resamples).items()):
        random = np.random.default_rng([given.seed, number])
        passed = sum(passes(world.promotion(random, gain, luck)) for _ in range(given.promotions))
        low, high = (float(end[0]) for end in wilson(np.array([passed]), np.array([given.promotions]), 0.95))
        found[name] = {"passed": passed, "share": passed / given.promotions, "low": low, "high": high}
        say(f"{name}: {passed} of {given.promotions}")
    content = {
        "promotions": found,
        "level": given.level,
        "settings": {
            "promotions": given.promotions,
            "resamples": given.resamples,
            "metrics": METRICS,
            "seed": given.seed,
            **vars(world),
        },
        "published": PUBLISHED.as_posix(),
        **made_by(__file__, argv, started),
    }
    path = ROOT / given.out
    write_json(path, content, indent=2)
    say(f"wrote {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--promotions", type=int, default=200, help="of each kind")
    made.add_argument("--users", type=int, default=20_000, help="of each promotion")
    made.add_argument("--resamples", type=int, default=500, help="of the bootstrap of each test")
    made.add_argument("--agree", type=float, default=0.5, help="share of the users who get the same list from both")
    made.add_argument("--level", type=float, default=0.05)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, default=RESULTS / "promotion" / "error_rate.json")
    return made


if __name__ == "__main__":
    sys.exit(main())
