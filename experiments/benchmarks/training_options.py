"""Time of a training step in float32, in bfloat16, compiled, and with one thread or all.

Steps of SynerGen on batches of Amazon Beauty, eager settings in turns, so that whatever else the machine does hits all
alike; the median counts. The compiled decoder comes last, because it cannot be undone in a process.

    python experiments/benchmarks/training_options.py
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
import warnings
from typing import Any

import torch
from _record import ratio, record
from _steps import Step, training_step

from recsys.cli.allocator import keep_freed_memory
from recsys.features.batch import SequenceBatch
from recsys.features.negatives import Uniform
from recsys.features.splits import LeaveLastOut
from recsys.losses.info_nce import InfoNCE
from recsys.models.synergen import SynerGen
from recsys.training.data import EventLogData
from recsys.training.objective import RetrievalObjective

SIZES = {"small": (64, 256), "recipe": (128, 2048)}
"""Name -> width and shared negatives."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    keep_freed_memory()
    warnings.filterwarnings("ignore")
    ratios: dict[str, Any] = {}
    data = EventLogData("amazon_beauty", split=LeaveLastOut())
    batches = list(itertools.islice(iter(data.batches), given.steps))
    every = len(os.sched_getaffinity(0))
    for name, (width, negatives) in SIZES.items():
        step, network = training(data, width, negatives)
        options = [(threads, bf16) for threads in (1, every) for bf16 in (False, True)]
        taken: dict[tuple[int, bool], list[float]] = {option: [] for option in options}
        for place, batch in enumerate(batches):
            for threads, bf16 in options:
                torch.set_num_threads(threads)
                seconds = timed(step, batch, bf16)
                if place >= 5:
                    taken[threads, bf16].append(seconds)
        median = {option: statistics.median(seconds) for option, seconds in taken.items()}
        torch.set_num_threads(every)
        started = time.perf_counter()
        network.dense_part().compile(dynamic=True)
        timed(step, batches[0], False)
        wait = time.perf_counter() - started
        compiled = statistics.median([timed(step, batch, False) for batch in batches][5:])
        best = median[every, False]
        ratios |= {
            f"{name}/bf16": ratio(median[every, True], best, "s per step"),
            f"{name}/compiled": ratio(compiled, best, "s per step"),
            f"{name}/one_thread": ratio(median[1, False], best, "s per step"),
            f"{name}/one_thread_bf16": ratio(median[1, True], best, "s per step"),
            f"{name}/first_compiled_step": ratio(wait, best, "s"),
        }
        print(name, ratios, flush=True)
    print(f"written: {record('training_options', ratios, sizes=SIZES, baseline='float32, eager, all threads').name}")


def timed(step: Step, batch: SequenceBatch, bf16: bool) -> float:
    """Seconds of one step."""
    started = time.perf_counter()
    step(batch, bf16)
    return time.perf_counter() - started


def training(data: EventLogData, width: int, negatives: int) -> tuple[Step, SynerGen]:
    """A training step, and its network."""
    torch.manual_seed(0)
    network = SynerGen(data.catalogue, width=width, dropout=0.5)
    return training_step(network, RetrievalObjective(InfoNCE(temperature=0.05), Uniform(negatives))), network


if __name__ == "__main__":
    main()
