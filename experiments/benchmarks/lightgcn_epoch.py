"""Seconds of an epoch of LightGCN by BPR on Gowalla, beside RecBole's.

Same pairs, width, layers, batch, threads and allocator settings for both, each in a process of its own, and both in the
loop that they are used with. They take some steps in turns; the first turn of each warms up, and an epoch lasts as many
steps as it has, each as long as in the median of the other turns. Also how long one product of the graph with the
embeddings takes as a sum of bags of rows, over that of torch's sparse matrices.

    RECSYS_PEERS_PYTHON=peers/bin/python python experiments/benchmarks/lightgcn_epoch.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _ours_lightgcn import log_of
from _record import ratio, record
from _sides import HERE, PEERS_PYTHON, Side, peers_python

from recsys.features.training_pairs import TrainingPairs
from recsys.models.light_gcn import normalized_adjacency, product

INSTALL = "torch==2.13.0 recbole==1.2.1 'numpy<2' 'pandas<3' 'setuptools<81'"
SETTINGS: dict[str, Any] = {
    "dataset": "gowalla",
    "width": 64,
    "layers": 3,
    "batch": 2048,
    "lr": 0.001,
    "l2": 1e-4,
    "seed": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers-python",
        default=os.environ.get(PEERS_PYTHON),
        help=f"interpreter of an environment with RecBole; by default ${PEERS_PYTHON}",
    )
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--turns", type=int, default=8, help="of each side, at least 2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side")
    given = parser.parse_args()
    python = peers_python(given.peers_python, INSTALL)
    settings = SETTINGS | {"steps": given.steps, "threads": given.threads}
    data = log_of(settings)
    pairs = TrainingPairs.of(data.split)
    sides = compare(commands(python), pairs, settings, given.turns)
    ours, theirs = sides["ours"], sides["recbole"]
    ratios = {
        "gowalla/recbole": ratio(ours["pairs_per_s"], theirs["pairs_per_s"], "pairs/s"),
        "gowalla/recbole/peak": ratio(ours["peak_rss_mib"], theirs["peak_rss_mib"], "MiB of the process"),
        "gowalla/product": products(pairs, settings),
    }
    for name, entry in ratios.items():
        print(name, entry, flush=True)
    path = record(
        "lightgcn_epoch", ratios, settings=settings | {"turns": given.turns}, sides={"gowalla/recbole": sides}
    )
    print(f"written: {path.name}")


def commands(python: str) -> dict[str, list[str]]:
    """The program of each side."""
    return {
        "ours": [sys.executable, str(HERE / "_ours_lightgcn.py")],
        "recbole": [python, str(HERE / "peers" / "recbole_lightgcn.py")],
    }


def compare(
    programs: dict[str, list[str]], pairs: TrainingPairs, settings: dict[str, Any], turns: int
) -> dict[str, dict[str, Any]]:
    """What both sides say of themselves, how fast they were, and what they held.

    Raises:
        SystemExit: they do not do the same work.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        data = Path(folder) / "data.npz"
        np.savez(data, **task_arrays(pairs))
        sides = []
        for name, program in programs.items():
            command = [*program, "--data", str(data), "--settings", json.dumps(settings)]
            sides.append(Side(name, command, Path(folder) / f"{name}.log"))
            ends.callback(sides[-1].end)
        for fact in ("steps_per_epoch", "edges"):
            if len({side.facts[fact] for side in sides}) > 1:
                raise SystemExit(f"{fact} differ: { {side.name: side.facts[fact] for side in sides} }")
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        for _ in range(turns):
            for side in sides:
                answer = side.ask("steps")
                seconds[side.name].append(answer["seconds"])
                side.facts["peak_rss_mib"] = round(answer["peak_rss_mib"], 1)
                print(side.name, round(answer["seconds"], 2), flush=True)
        return {side.name: side.facts | speed(seconds[side.name], side.facts, settings, len(pairs)) for side in sides}


def speed(seconds: list[float], facts: dict[str, Any], settings: dict[str, Any], pairs: int) -> dict[str, Any]:
    """Seconds of an epoch from those of turns, of which the first warms up."""
    of_epoch = statistics.median(seconds[1:]) / settings["steps"] * facts["steps_per_epoch"]
    return {
        "seconds_per_epoch": round(of_epoch, 2),
        "pairs_per_s": round(pairs / of_epoch, 1),
        "seconds": [round(turn, 3) for turn in seconds],
    }


def task_arrays(pairs: TrainingPairs) -> dict[str, np.ndarray]:
    """The items of each user with training pairs; nobody asks for lists."""
    lengths = np.diff(pairs.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths[lengths > 0])])
    none = np.zeros(1, dtype=np.int64)
    return {
        "train_items": pairs.items,
        "train_offsets": offsets,
        "history_items": none[:0],
        "history_offsets": none,
        "n_items": np.asarray(pairs.n_items),
    }


def products(pairs: TrainingPairs, settings: dict[str, Any], repeats: int = 15) -> dict[str, float | str]:
    """Seconds of a product by bags, over those of torch's sparse product, in turns."""
    torch.set_num_threads(settings["threads"])
    interactions = torch.from_numpy(pairs.items), torch.from_numpy(pairs.offsets)
    matrix = normalized_adjacency(interactions, pairs.n_items)
    dense = torch.randn(matrix.shape[0], settings["width"], generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "bags": lambda: product(matrix, dense),
        "sparse": lambda: matrix @ dense,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    bags, sparse = (statistics.median(seconds[name][1:]) for name in ways)
    return ratio(bags, sparse, "s")


if __name__ == "__main__":
    main()
