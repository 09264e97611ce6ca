"""Time and memory of a training step with self-supervised terms over items, over those of the step without.

Networks at the size of the recipes, and batches of the data set as the recipes have them. Each side takes its steps in
a process of its own; all are run several times in turns, so that other work on the machine does not decide, and the
fastest median of each counts. `peak` is all that a process ever held, the smallest of the repeats.

    python experiments/benchmarks/ssl_step_cost.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from _record import ratio, record
from _steps import training_step

from recsys.cli.allocator import SETTINGS as ALLOCATOR
from recsys.features.catalogue import Catalogue
from recsys.features.masking import CorrelatedMasking, RandomMasking
from recsys.features.negatives import Uniform
from recsys.features.splits import LeaveLastOut
from recsys.losses.info_nce import InfoNCE
from recsys.models.network import SequenceNetwork
from recsys.models.synergen import SynerGen
from recsys.models.two_tower import TwoTower
from recsys.training.auxiliary import Auxiliary, WithAuxiliary
from recsys.training.data import EventLogData
from recsys.training.feature_masking import FeatureMaskingSSL
from recsys.training.objective import Objective, RetrievalObjective
from recsys.training.spread_out import SpreadOut

PLAIN = "plain"
TERMS: dict[str, Callable[[int], Auxiliary]] = {
    "random": lambda n: FeatureMaskingSSL(RandomMasking(), n=n),
    "correlated": lambda n: FeatureMaskingSSL(CorrelatedMasking(), n=n),
    "correlated_eliminated": lambda n: FeatureMaskingSSL(CorrelatedMasking(), n=n, eliminate_overlap=0.8),
    "spread_out": lambda n: SpreadOut(n=n),
}
NETWORKS: dict[str, Callable[[Catalogue], SequenceNetwork]] = {
    "synergen": partial(SynerGen, width=128, dropout=0.5, maskable=True),
    "two_tower": partial(TwoTower, maskable=True),
}


class Side(NamedTuple):
    network: str
    term: str


class Facts(NamedTuple):
    """Median seconds of a step, and the most memory that the process held."""

    seconds: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon_beauty")
    parser.add_argument("--n", type=int, default=1024, help="items of a term")
    parser.add_argument("--negatives", type=int, default=2048)
    parser.add_argument("--warm-up", type=int, default=5, help="steps, which touch the optimizer's state first")
    parser.add_argument("--steps", type=int, default=60, help="timed steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", nargs=2, metavar=Side._fields, help="measure one side here and print it")
    given = parser.parse_args()
    if given.side:
        warnings.filterwarnings("ignore")
        print(json.dumps(measure(EventLogData(given.dataset, split=LeaveLastOut()), Side(*given.side), given)))
        return
    found: dict[Side, Facts] = {}
    for _ in range(given.repeats):
        for side in itertools.starmap(Side, itertools.product(NETWORKS, (PLAIN, *TERMS))):
            found[side] = least(found.get(side), measure_apart(side))
            print(*side, found[side], flush=True)
    settings = {name: value for name, value in vars(given).items() if name != "side"}
    facts = [side._asdict() | of_side._asdict() for side, of_side in found.items()]
    path = record("ssl_step_cost", compare(found), settings=settings, facts=facts)
    print(f"written: {path.name}")


def measure_apart(side: Side) -> Facts:
    """One side in a fresh process with the same arguments."""
    command = [sys.executable, *sys.argv, "--side", *side]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ALLOCATOR)
    return Facts(*json.loads(done.stdout.splitlines()[-1]))


def measure(data: EventLogData, side: Side, given: argparse.Namespace) -> Facts:
    """Steps of one side in this process."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    objective: Objective = RetrievalObjective(InfoNCE(temperature=0.05), Uniform(given.negatives))
    if side.term != PLAIN:
        objective = WithAuxiliary(objective, [TERMS[side.term](given.n)])
    step = training_step(NETWORKS[side.network](data.catalogue), objective)
    seconds = []
    endless = itertools.chain.from_iterable(itertools.repeat(data.batches))
    for batch in itertools.islice(endless, given.warm_up + given.steps):
        started = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - started)
    return Facts(statistics.median(seconds[given.warm_up :]), peak_mib())


def least(before: Facts | None, now: Facts) -> Facts:
    return now if before is None else Facts(*map(min, before, now))


def compare(found: dict[Side, Facts]) -> dict[str, dict[str, float | str]]:
    """What each term costs a step of each network."""
    ratios = {}
    for side, facts in found.items():
        if side.term != PLAIN:
            plain, name = found[Side(side.network, PLAIN)], "/".join(side)
            ratios[f"{name}/time"] = ratio(facts.seconds, plain.seconds, "s per step")
            ratios[f"{name}/peak"] = ratio(facts.peak_mib, plain.peak_mib, "MiB of the process")
            print(name, ratios[f"{name}/time"], ratios[f"{name}/peak"], flush=True)
    return ratios


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
