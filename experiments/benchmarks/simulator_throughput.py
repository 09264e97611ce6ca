"""Sessions a minute of simulated experiments, and the memory that they take.

A world of planted preferences runs an A/B test between two policies: popularity against matrix factorisation, which
rank the whole catalogue for each visitor whose history has changed; or softmax against epsilon-greedy over the best
100 items, which also need propensities. Users remember what they clicked. Each test runs in a process of its own, so
that its peak memory is its own. Ratios are of minutes of processor time, on one thread: others may use the machine.

    python experiments/benchmarks/simulator_throughput.py
    python experiments/benchmarks/simulator_throughput.py --smoke
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

from _record import ratio, record

WANTED = 1_000_000
"""Sessions a minute, with policies that are cheap."""


def arms_of(kind: str, world: Any) -> dict[str, Any]:
    from recsys.simulation.world.latent_model import LatentModel
    from recsys.simulation.world.policy import Policy
    from recsys.simulation.world.rules import EpsilonGreedy, PlackettLuce

    popular, best = LatentModel.of(world, preference=0, popularity=1), LatentModel.of(world)
    if kind == "greedy":
        return {"popularity": Policy(popular), "factors": Policy(best)}
    return {
        "softmax": Policy(best, PlackettLuce(), candidates=100),
        "epsilon_greedy": Policy(best, EpsilonGreedy(0.1), candidates=100),
    }


def measure(kind: str, users: int, items: int, days: int, threads: int) -> dict[str, float]:
    import torch

    from recsys.simulation.world.experiment import Design, stream
    from recsys.simulation.world.preferences import planted
    from recsys.simulation.world.visits import Visits
    from recsys.simulation.world.world import World

    torch.set_num_threads(threads)
    truth = planted(users, items)
    world = World.of(truth, Visits.gamma(users, mean=0.5))
    arms = arms_of(kind, truth)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    start, worked = time.perf_counter(), time.process_time()
    sessions = clicks = 0
    for part in stream(world, arms, Design(days=days)):
        sessions, clicks = sessions + len(part), clicks + int(part.clicks.sum())
    seconds, cpu = time.perf_counter() - start, time.process_time() - worked
    return {
        "sessions": sessions,
        "clicks": clicks,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu, 4),
        "sessions_per_minute": round(60 * sessions / seconds),
        "sessions_per_cpu_minute": round(60 * sessions / cpu),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1),
        "rss_before_mib": round(before, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=2_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="2,000 users and 2 days; nothing is written")
    parser.add_argument("--only", choices=("greedy", "stochastic"), help="one kind, whose numbers are printed as JSON")
    given = parser.parse_args()
    if given.smoke:
        given.users, given.days = 2_000, 2
    sizes = {name: getattr(given, name) for name in ("users", "items", "days", "threads")}
    if given.only:
        print(json.dumps(measure(given.only, **sizes)))
        return
    found = {}
    for kind in ("greedy", "stochastic"):
        arguments = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(
            [sys.executable, __file__, "--only", kind, *arguments], stdout=subprocess.PIPE, text=True, check=True
        )
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        print(kind, found[kind], flush=True)
    if not given.smoke:
        ratios = {
            kind: ratio(each["sessions_per_cpu_minute"], WANTED, "sessions/min of processor time")
            for kind, each in found.items()
        }
        print(f"written: {record('simulator_throughput', ratios, settings=sizes, details=found).name}")


if __name__ == "__main__":
    main()
