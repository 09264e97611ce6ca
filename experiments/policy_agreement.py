"""Which policies are better: by the truth, by a simulated A/B test, off-policy, and by NDCG on logged clicks.

In a world whose truth is known a selective logging policy shows items; models are trained on the clicks. A second log
of the same policy, with its propensities, judges ten policies by off-policy estimators and by NDCG@10 of the logged
clicks; an A/B/n test runs all of them side by side. Each judge is compared with the truth by Kendall's tau over the
policies, which a bootstrap resamples, and by the pairs that it orders rightly. Results go into
`experiments/results/simulation/policy_agreement.json`, and a picture beside it.

    python experiments/policy_agreement.py
    python experiments/policy_agreement.py --smoke
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))
from _agreement_picture import draw
from _agreement_worlds import WORLDS, clicks_of, policies_of
from _record import command, machine, versions
from _results import write_json

from recsys.evaluation.metrics import ranking_metrics
from recsys.simulation.off_policy.doubly_robust import DoublyRobust
from recsys.simulation.off_policy.evaluate import evaluate_policies
from recsys.simulation.off_policy.inverse_propensity import IPW, SelfNormalizedIPW
from recsys.simulation.statistics.effect import ratio_effect
from recsys.simulation.world.bandit import FirstItem, bandit_log
from recsys.simulation.world.behaviour import consumed
from recsys.simulation.world.experiment import Design, remember, simulate
from recsys.simulation.world.latent_model import LatentModel
from recsys.simulation.world.outcome import Outcome, Sessions
from recsys.simulation.world.policy import Policy
from recsys.simulation.world.rules import PlackettLuce
from recsys.simulation.world.truth import policy_value
from recsys.simulation.world.world import World

RESULTS = Path(__file__).resolve().parent / "results" / "simulation"
ESTIMATORS = {"ipw": IPW(), "snipw": SelfNormalizedIPW(), "dr": DoublyRobust()}
JUDGES = ("ab", *ESTIMATORS, "ndcg")
TITLES = {"dr": "off-policy, doubly robust", "ab": "simulated A/B/n test", "ndcg": "NDCG on logged clicks"}
LEVEL = 0.05


def logged_ndcg(world: World, sessions: Sessions, policies: dict[str, Policy]) -> dict[str, float]:
    """NDCG@10 of what was clicked in the log, of the best items by each model."""
    user, item = consumed(sessions, world.n_items)
    users, counts = torch.unique_consecutive(user, return_counts=True)
    relevant = item, torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    ranked = {name: policy.rank(users, world.histories, 10).items[:, :10] for name, policy in policies.items()}
    return {name: float(ranking_metrics(lists, relevant, ks=[10])["NDCG@10"].mean()) for name, lists in ranked.items()}


def kendall(truth: NDArray[np.float64], judged: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Kendall's tau-b of P policies of which each counts so many times: `[R]` for counts `[R, P]`."""
    signs = [np.sign(values[:, None] - values) for values in (truth, judged)]
    pairs = [
        np.einsum("ri,ij,rj->r", counts, left * right, counts) for left, right in (signs, signs[:1] * 2, signs[1:] * 2)
    ]
    return np.asarray(pairs[0] / np.sqrt(pairs[1] * pairs[2]))


def taus(rows: list[list[dict[str, Any]]], resamples: int, seed: int) -> dict[str, dict[str, float]]:
    """Mean tau of each judge over studies, with a percentile interval: the policies of each study are resampled."""
    random = np.random.default_rng(seed)
    counts = [random.multinomial(len(each), np.full(len(each), 1 / len(each)), resamples) for each in rows]
    found = {}
    for judge in JUDGES:
        drawn, points = np.zeros(resamples), []
        for each, of_each in zip(rows, counts, strict=True):
            truth, judged = (np.array([row[key] for row in each]) for key in ("truth", judge))
            points.append(float(kendall(truth, judged, np.ones((1, len(each)), np.int64))[0]))
            drawn += kendall(truth, judged, of_each) / len(rows)
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        found[judge] = {"tau": float(np.mean(points)), "low": float(low), "high": float(high)}
    return found


def pairs_of(rows: list[dict[str, Any]], outcome: Outcome) -> list[dict[str, Any]]:
    """What each judge says of each pair: the better policy first, by the truth."""
    found = []
    for first, second in itertools.combinations(sorted(rows, key=lambda row: -row["truth"]), 2):
        effect = ratio_effect(
            *(outcome.of(row["policy"], name) for row in (second, first) for name in ("clicks", "sessions"))
        )
        found.append(
            {
                "better": first["policy"],
                "worse": second["policy"],
                "difference": first["truth"] - second["truth"],
                "right": {judge: first[judge] > second[judge] for judge in JUDGES},
                "ab_p_value": effect.p_value,
                "ab_low": effect.low,
                "ab_high": effect.high,
            }
        )
    return found


def study(name: str, sizes: dict[str, int], seed: int) -> dict[str, Any]:
    start = time.perf_counter()
    world = WORLDS[name](sizes["users"], sizes["items"], seed)
    logging = Policy(LatentModel.of(world.preferences, preference=0.3, popularity=0.7), PlackettLuce())
    design = Design(days=sizes["days"], length=5, keep=True, seed=seed)
    training = simulate(world, {"logging": logging}, design).sessions
    assert training is not None
    policies = policies_of(world, clicks_of(training, world.start), seed)
    world = remember(world, training)
    frozen = Design(days=sizes["days"], length=1, grow=False, seed=seed + 1000)
    sessions = simulate(world, {"logging": logging}, replace(frozen, keep=True)).sessions
    assert sessions is not None
    log = bandit_log(sessions, world.n_items)
    asked = {policy: FirstItem(each, world.histories) for policy, each in policies.items()}
    outcome = simulate(world, policies, replace(frozen, seed=seed + 2000, salt=f"agreement {seed}"))
    ndcg = logged_ndcg(world, sessions, policies)
    report = evaluate_policies(log, asked, estimators=list(ESTIMATORS.values()), level=LEVEL)
    rows = []
    for policy, each in policies.items():
        estimates = report.policies[policy].estimates
        if not estimates:
            raise SystemExit(f"{policy} cannot be judged off-policy: {report.policies[policy].refusals}")
        rows.append(
            {
                "policy": policy,
                "truth": policy_value(world, each, 1).mean,
                "ab": outcome.per_session(policy),
                "ndcg": ndcg[policy],
                **{key: estimates[estimator.name].value for key, estimator in ESTIMATORS.items()},
                "intervals": {name: [found.low, found.high] for name, found in estimates.items()},
                "effective_rounds": report.policies[policy].diagnostics.effective_rounds,
            }
        )
    pairs = pairs_of(rows, outcome)
    misled = [
        pair for pair in pairs if not pair["right"]["ndcg"] and pair["right"]["ab"] and pair["ab_p_value"] < LEVEL
    ]
    covered = [low <= row["truth"] <= high for row in rows for low, high in row["intervals"].values()]
    return {
        "world": name,
        "seed": seed,
        "logging_value": policy_value(world, logging, 1).mean,
        "rounds": len(log),
        "training_clicks": int(training.clicks.sum()),
        "sessions_of_test": int(outcome.sums["sessions"].sum()),
        "policies": rows,
        "taus": taus([rows], sizes["resamples"], seed),
        "pairs": len(pairs),
        "pairs_right": {judge: sum(pair["right"][judge] for pair in pairs) for judge in JUDGES},
        "pairs_the_test_decides": sum(pair["ab_p_value"] < LEVEL for pair in pairs),
        "of_these_right": sum(pair["ab_p_value"] < LEVEL and pair["right"]["ab"] for pair in pairs),
        "pairs_that_ndcg_misorders_and_the_test_does_not": len(misled),
        "widest_of_them": max(misled, key=lambda pair: pair["difference"], default=None),
        "off_policy_intervals_that_hold_the_truth": [sum(covered), len(covered)],
        "wall_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=tuple(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true", help="a small planted world; results go to a folder of --out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.smoke:
        given.worlds, given.seeds = ["planted"], [0]
        given.users, given.items, given.days, given.resamples = 1_000, 40, 8, 50
        if given.out == RESULTS:
            given.out = Path("runs") / "policy_agreement_smoke"
    warnings.filterwarnings("ignore", message="user_shares trains on events later")
    sizes = {name: getattr(given, name) for name in ("users", "items", "days", "resamples")}
    start, studies = time.perf_counter(), []
    for world, seed in itertools.product(given.worlds, given.seeds):
        studies.append(study(world, sizes, seed))
        last = studies[-1]
        told = ", ".join(f"{judge} {found['tau']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
                         for judge, found in last["taus"].items())  # fmt: skip
        print(f"{world} {seed}: tau with the truth: {told}; {last['wall_s']} s", flush=True)
        print(
            f"  pairs of {last['pairs']} ordered rightly: {last['pairs_right']}; {last['widest_of_them']}", flush=True
        )
    of_worlds = {
        world: taus([each["policies"] for each in studies if each["world"] == world], given.resamples, 0)
        for world in given.worlds
    }
    content = {
        "taus": of_worlds,
        "studies": studies,
        "settings": sizes,
        "wall_s": round(time.perf_counter() - start, 1),
        "machine": machine(),
        "versions": versions(("torch", "numpy", "scipy", "implicit")),
        "command": command(),
    }
    print(f"written: {write_json(given.out / 'policy_agreement.json', content, indent=2, allow_nan=False).name}")
    shown = next((each for each in studies if each["widest_of_them"]), studies[0])
    pair = shown["widest_of_them"] or {}
    named = [pair[key] for key in ("better", "worse") if key in pair]
    print(f"written: {draw(shown['policies'], TITLES, named, given.out / 'policy_agreement.png').name}")


if __name__ == "__main__":
    main()
