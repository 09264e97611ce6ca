"""Seconds and peak memory of off-policy evaluation with very many rounds and actions.

A softmax policy over all actions, another one for each round (inner products of vectors), is evaluated on a log of a
uniform policy: every default estimator, diagnostics and bootstrap. A matrix of rounds and actions would take 80 GB at
full size; blocks of 8 MiB are held instead. The limits are 60 s and 2 GiB for a million rounds and ten thousand
actions.

    python experiments/benchmarks/off_policy_scale.py
    python experiments/benchmarks/off_policy_scale.py --smoke
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import pandas as pd
import torch
from _record import ratio, record

from recsys.simulation.off_policy.bandit_log import BanditLog
from recsys.simulation.off_policy.choices import Softmax
from recsys.simulation.off_policy.evaluate import evaluate_policies
from recsys.simulation.off_policy.scored_policy import Scored, ScoredPolicy

SECONDS, GIB = 60.0, 2.0


class Products:
    """Scores of all actions by inner products, as those of a recommender with vectors."""

    def __init__(self, rounds: int, actions: int, width: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.users = torch.randn(rounds, width, generator=draw) / width**0.5
        self.items = torch.randn(actions, width, generator=draw)

    def width(self, log: BanditLog) -> int:
        return len(self.items)

    def __call__(self, log: BanditLog, rounds: np.ndarray) -> Scored:
        return Scored(self.users[torch.from_numpy(rounds)] @ self.items.T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1_000_000)
    parser.add_argument("--actions", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smoke", action="store_true", help="small, prints and writes nothing")
    given = parser.parse_args()
    if given.smoke:
        given.rounds, given.actions = 20_000, 200
    torch.set_num_threads(given.threads)
    random = np.random.default_rng(0)
    action = random.integers(0, given.actions, given.rounds)
    reward = (random.random(given.rounds) < 0.05 * (1 + action / given.actions)).astype(np.float64)
    table = pd.DataFrame({"action": action, "reward": reward, "propensity": 1 / given.actions})
    log = BanditLog.from_frame(table, actions=range(given.actions))
    policy = ScoredPolicy(Products(given.rounds, given.actions, given.width), Softmax())
    started, cpu = time.perf_counter(), time.process_time()
    report = evaluate_policies(log, {"softmax": policy})
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found = report.policies["softmax"]
    print(report.table()[["estimator", "value", "low", "high"]].to_string(index=False))
    print(f"{given.rounds:,} rounds x {given.actions:,} actions: {seconds:.1f} s ({cpu:.1f} s of processor time)")
    print(f"peak memory {peak:.2f} GiB; effective rounds {found.diagnostics.effective_rounds:,.0f}", *found.refusals)
    if given.smoke:
        return
    ratios = {
        "seconds": ratio(seconds, SECONDS, "s, against the limit"),
        "processor_seconds": ratio(cpu, SECONDS, "s, against the limit"),
        "peak_memory": ratio(peak, GIB, "GiB, against the limit"),
    }
    settings = {name: getattr(given, name) for name in ("rounds", "actions", "width", "threads")}
    path = record("off_policy_scale", ratios, settings=settings, report=json.loads(json.dumps(report.as_json())))
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
