"""Bias, variance and coverage of every off-policy estimator, over many logs of planted worlds.

The truth is known, and so is the variance of some estimators. Each log is drawn anew, the reward model is fitted to it
and parameters are chosen from it, as users would. Writes `experiments/results/off_policy/calibration.json`.

    python experiments/off_policy_calibration.py
    python experiments/off_policy_calibration.py --smoke
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _made_by import made_by
from _planted_slates import FixedScores, PlantedSlates
from _results import write_json
from _runs import ROOT, say

from recsys.evaluation.intervals import wilson
from recsys.simulation.off_policy.choices import Softmax
from recsys.simulation.off_policy.diagnostics import Limits, diagnose, refusals
from recsys.simulation.off_policy.evaluate import default_estimators
from recsys.simulation.off_policy.intervals import Bootstrap, EmpiricalBernstein, Normal
from recsys.simulation.off_policy.inverse_propensity import ClippedIPW
from recsys.simulation.off_policy.marginalised import MarginalizedIPW, with_clusters
from recsys.simulation.off_policy.planted_rounds import PlantedRounds
from recsys.simulation.off_policy.ranked_policy import RankedPolicy
from recsys.simulation.off_policy.reward_models import CrossFitted, MeanByAction
from recsys.simulation.off_policy.rounds import rounds_of
from recsys.simulation.off_policy.slate_rounds import slate_rounds
from recsys.simulation.off_policy.slates import CascadeDR, RewardInteractionIPS
from recsys.simulation.off_policy.terms import Terms
from recsys.simulation.off_policy.tuning import Slope, Tuned

OUT = Path("experiments/results/off_policy/calibration.json")
LEVEL = 0.05
CLUSTERS = 5


class Drawn(NamedTuple):
    """What estimators make of a log.

    Attributes:
        terms: by estimator.
        unit: of each term.
        refused: whether the diagnostics would have shown no estimate.
    """

    terms: dict[str, Terms]
    unit: np.ndarray
    refused: bool


class Study(NamedTuple):
    """A world.

    Attributes:
        value: the truth.
        draw: a log of some rounds, drawn by a seed.
        variances: of a round, by estimator, where theory knows them.
    """

    value: float
    draw: Callable[[int, int], Drawn]
    variances: Mapping[str, float]


def rounds_study(planted: PlantedRounds, cluster: np.ndarray) -> Study:
    """Single recommendations; `cluster` is the cluster of each action."""

    def draw(n: int, seed: int) -> Drawn:
        log = planted.draw(n, seed)
        policy = planted.policy(log)
        rounds = rounds_of(log, policy, CrossFitted.of(MeanByAction(), log, seed=seed))
        rounds = with_clusters(rounds, log, policy, cluster, planted.policy(log, planted.logging))
        found = {each.name: each(rounds) for each in (*default_estimators(), MarginalizedIPW())}
        found["clipped IPW by SLOPE"] = Tuned(ClippedIPW, Slope())(rounds)
        return Drawn(found, rounds.unit, bool(refusals(diagnose(rounds), Limits())))

    # In the limit the reward model knows the mean of each action over the groups that logged it.
    q = (planted.logging * planted.click).sum(0) / planted.logging.sum(0)
    limits = {
        "IPW": planted.ipw_variance,
        "SNIPW": planted.snipw_variance,
        "DR": planted.dr_variance(np.broadcast_to(q, planted.click.shape)),
    }
    return Study(planted.value, draw, limits)


def slates_study(planted: PlantedSlates) -> Study:
    """Slates whose rewards depend on what stands above."""

    def draw(n: int, seed: int) -> Drawn:
        log = planted.draw(n, seed)
        policy = RankedPolicy(FixedScores(planted.target), Softmax(), log)
        slates = slate_rounds(log, policy, seed=seed)
        found = {each.name: each(slates) for each in (RewardInteractionIPS(), CascadeDR())}
        return Drawn(found, slates.unit, bool(refusals(diagnose(rounds_of(log, policy)), Limits())))

    return Study(planted.value, draw, {})


def studies() -> dict[str, Study]:
    """Policies that are near, policies that are far, many actions, and slates."""
    made = {}
    for name, actions, sharpness, clicks in (
        ("near", 10, 1.0, (0.05, 0.5)),
        ("far", 10, 3.0, (0.05, 0.5)),
        ("rare clicks", 10, 1.0, (0.005, 0.05)),
        ("many actions", 500, 1.0, (0.05, 0.5)),
    ):
        random = np.random.default_rng(7)
        cluster = np.arange(actions) % CLUSTERS
        click = random.uniform(*clicks, (4, CLUSTERS))[:, cluster] * random.uniform(0.95, 1.05, (4, actions))
        logging, target = (random.dirichlet(np.full(actions, 2.0), 4) ** power for power in (sharpness, 1.0))
        logging, target = (policy / policy.sum(1, keepdims=True) for policy in (logging, target))
        made[name] = rounds_study(PlantedRounds(click, logging, target), cluster)
    liked = np.linspace(0.6, 0.05, 8)
    made["slates"] = slates_study(PlantedSlates(liked, np.zeros(8), np.linspace(1.0, 0.0, 8)))
    return made


def calibrated(
    study: Study, rounds: int, logs: int, resamples: int, seed: int
) -> tuple[int, dict[str, dict[str, Any]]]:
    """How many logs the diagnostics would refuse, and what all of them say of each estimator."""
    values: dict[str, list[float]] = {}
    missed: dict[str, dict[str, int]] = {}
    methods = {"normal": Normal(), "bootstrap": Bootstrap(resamples)}
    refused = 0
    for number in range(logs):
        terms, unit, refuses = study.draw(rounds, seed + number)
        refused += refuses
        for kind, method in methods.items():
            for name, (low, high) in method.intervals(terms, unit, LEVEL).items():
                counts = missed.setdefault(name, dict.fromkeys((*methods, "not refused", "bernstein"), 0))
                counts[kind] += not low <= study.value <= high
                counts["not refused"] += kind == "bootstrap" and not refuses and not low <= study.value <= high
        for name, each in terms.items():
            values.setdefault(name, []).append(each.value)
        for name in {"IPW", "RIPS"} & set(terms):
            missed[name]["bernstein"] += EmpiricalBernstein().lower(terms[name], unit, LEVEL) > study.value
    found = {}
    for name, each in values.items():
        error = np.array(each) - study.value
        sd = float(error.std(ddof=1))
        found[name] = {
            "bias": float(error.mean()),
            "bias_error": sd / math.sqrt(logs),
            "sd": sd,
            "sd_of_theory": math.sqrt(study.variances[name] / rounds) if name in study.variances else None,
            "rmse": float(np.sqrt((error**2).mean())),
            "coverage": {kind: _share(logs - missed[name][kind], logs) for kind in methods},
        }
        if refused < logs:
            kept = logs - refused
            found[name]["coverage"]["bootstrap, where not refused"] = _share(kept - missed[name]["not refused"], kept)
        if name in ("IPW", "RIPS"):
            found[name]["bernstein_above_the_truth"] = _share(missed[name]["bernstein"], logs)
    return refused, found


def _share(count: int, of: int) -> dict[str, float]:
    low, high = (float(end[0]) for end in wilson(np.array([count]), np.array([of]), 0.95))
    return {"share": count / of, "low": low, "high": high}


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    if given.smoke:
        given.logs, given.rounds, given.resamples = 5, 500, 50
    started = time.perf_counter()
    found = {}
    for name, study in studies().items():
        refused, rows = calibrated(study, given.rounds, given.logs, given.resamples, given.seed)
        found[name] = {"value": study.value, "refused_logs": refused, "estimators": rows}
        say(f"{name}: {study.value:.4f}, {refused} of {given.logs} logs would be refused")
        for estimator, row in rows.items():
            theory = "" if row["sd_of_theory"] is None else f" (theory {row['sd_of_theory']:.4f})"
            shares = ", ".join(f"{kind} {each['share']:.1%}" for kind, each in row["coverage"].items())
            bias = f"{row['bias']:+.4f} ± {row['bias_error']:.4f}"
            say(f"  {estimator}: bias {bias}, sd {row['sd']:.4f}{theory}, {shares}")
    content = {
        "worlds": found,
        "level": LEVEL,
        "settings": {name: getattr(given, name) for name in ("logs", "rounds", "resamples", "seed", "smoke")},
        **made_by(__file__, argv, started),
    }
    path = ROOT / given.out
    write_json(path, content, indent=2)
    say(f"wrote {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--logs", type=int, default=1000, help="of each world")
    made.add_argument("--rounds", type=int, default=2000, help="of each log")
    made.add_argument("--resamples", type=int, default=400, help="of the bootstrap")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--smoke", action="store_true", help="a few small logs, to see that it runs")
    made.add_argument("--out", type=Path, default=OUT)
    return made


if __name__ == "__main__":
    sys.exit(main())
