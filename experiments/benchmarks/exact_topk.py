"""Users per second for their exact 100 best of a catalogue, beside `implicit`, torch, FAISS, and approximate ranking.

All sides rank the same random vectors with the same threads, in turns; the median of the rounds counts. Ours is a
`Ranker` that scans in the fastest format of the processor; `product` is one that multiplies in float32. The lists of
all exact sides are compared: they must agree but for items whose scores are equal within rounding. Approximate sides
(an index of FAISS, and scans whose finds are not scored again) have their recall recorded. Another process, in which
nothing else has run, tells how much memory ours takes while users stream through it.

    python experiments/benchmarks/exact_topk.py
    python experiments/benchmarks/exact_topk.py --items 100000 --users 256 --rounds 2 --memory-users 512
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _record import ratio, record
from torch import Tensor

from recsys.cli.allocator import keep_freed_memory
from recsys.features.batch import SequenceBatch
from recsys.models.recommender import VectorRecommender
from recsys.retrieval.approximate import ApproximateRanker, measured_recall
from recsys.retrieval.item_index import HNSW, IVFPQ, ItemIndex
from recsys.retrieval.order import TopK
from recsys.retrieval.scan import scan_table
from recsys.retrieval.topk import Ranker
from recsys.training.usage import peak_rss_mib

EXACT = ("product", "fp32", "bf16", "int8", "implicit", "torch", "faiss_flat")
APPROXIMATE = {"ivf_pq": IVFPQ, "hnsw": HNSW}
BATCH = 1024
_BLOCK = 16_384


class RandomVectors(VectorRecommender):
    """Vectors of a normal distribution; those of a user follow from the id."""

    def __init__(self, n_items: int, d: int) -> None:
        self.n_items, self.d = n_items, d
        self.items = torch.randn(n_items + 1, d, generator=torch.Generator().manual_seed(0))

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        generator = torch.Generator().manual_seed(1 + int(batch.user_id[0]))
        return torch.randn(len(batch.user_id), self.d, generator=generator)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return self.items if ids is None else self.items[ids]

    def config(self) -> dict[str, Any]:
        return {"n_items": self.n_items, "d": self.d}

    def state(self) -> dict[str, Tensor]:
        return {"items": self.items}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> RandomVectors:
        return cls(**config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=(*EXACT, *APPROXIMATE),
        default=["product", "int8", "implicit", "torch", "faiss_flat", "ivf_pq"],
    )
    parser.add_argument("--memory-users", type=int, default=20_000, help="that stream through the process of ours")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory_of is not None:
        stream(given.memory_of, given.dimensions, given.memory_users, given.k)
        return
    keep_freed_memory()
    ratios: dict[str, Any] = {}
    details: dict[str, Any] = {}
    for n in given.items:
        name = f"{n:.0e}x{given.dimensions}".replace("e+0", "e").replace("e+", "e")
        details[name], speed = compared(n, given)
        details[name]["peak_rss_mib"] = peak_memory(n, given)
        for side in given.sides:
            ratios[f"{name}/{side}"] = ratio(speed["ours"], speed[side], "users/s")
            print(f"{name}/{side}", ratios[f"{name}/{side}"], flush=True)
        print(name, {key: value for key, value in details[name].items() if key != "sides"}, flush=True)
    settings = {name: getattr(given, name) for name in ("users", "k", "rounds", "threads", "memory_users")}
    settings["ours"] = scan_table("auto").__name__
    path = record("exact_topk", ratios, packages=("implicit", "faiss-cpu"), settings=settings, catalogues=details)
    print(f"written: {path.name}")


def compared(n: int, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Facts of one catalogue, and users per second of each side."""
    model = RandomVectors(n, given.dimensions)
    ids, ones = torch.arange(given.users), torch.ones(given.users, dtype=torch.int64)
    batch = SequenceBatch.build(ids, ones, ones, ones)
    sides: dict[str, Callable[[], TopK]] = {}
    prepared: dict[str, float] = {}
    for side in ("ours", *given.sides):
        started = time.perf_counter()
        sides[side] = made(side, model, batch, given)
        prepared[side] = round(time.perf_counter() - started, 2)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    lists: dict[str, TopK] = {}
    for _ in range(given.rounds):
        for side, rank in sides.items():
            started = time.perf_counter()
            lists[side] = rank()
            seconds[side].append(time.perf_counter() - started)
    speed = {side: given.users / statistics.median(took) for side, took in seconds.items()}
    facts = {
        "sides": {
            side: {
                "users_per_s": round(speed[side], 1),
                "seconds": [round(s, 3) for s in took],
                "prepared_s": prepared[side],
            }
            for side, took in seconds.items()
        },
        "agreement": {
            side: agreement(model, batch, lists["ours"], lists[side]) for side in given.sides if side in EXACT
        },
        "recall": {
            side: measured_recall(lists["ours"], lists[side])._asdict() for side in given.sides if side in APPROXIMATE
        },
        "overlap_of_scans_not_scored_again": {
            scan: overlap(scan, model, batch, lists["ours"], given.k) for scan in ("bf16", "int8")
        },
    }
    return facts, speed


def made(side: str, model: RandomVectors, batch: SequenceBatch, given: argparse.Namespace) -> Callable[[], TopK]:
    """A side, ready to rank: a function without arguments."""
    k, users, items = given.k, model.user_vectors(batch), model.items
    if side in APPROXIMATE:
        index = ItemIndex.build(items, APPROXIMATE[side](), threads=given.threads)
        ranker = ApproximateRanker(model, index)
        return lambda: ranker(batch, k)
    if side == "implicit":
        from implicit.cpu.topk import topk

        theirs, mine = items[1:].numpy(), users.numpy()

        def rank() -> TopK:
            ids, scores = topk(theirs, mine, k, num_threads=given.threads)
            return TopK(torch.from_numpy(ids.astype(np.int64)) + 1, torch.from_numpy(scores))

        return rank
    if side == "torch":
        return lambda: blocked(users, items[1:], k)
    if side == "faiss_flat":
        import faiss

        faiss.omp_set_num_threads(given.threads)
        flat = faiss.IndexFlatIP(given.dimensions)
        flat.add(items[1:].numpy())

        def search() -> TopK:
            scores, ids = flat.search(users.numpy(), k)
            return TopK(torch.from_numpy(ids) + 1, torch.from_numpy(scores))

        return search
    exact = Ranker(model, scan={"ours": "auto", "product": None}.get(side, side))  # type: ignore[arg-type]
    exact.prepare(torch.device("cpu"))
    return lambda: exact(batch, k)


def blocked(users: Tensor, items: Tensor, k: int) -> TopK:
    """What is written with torch alone: blocks of products, the best of each, and the best of these."""
    found, scores = [], []
    for start in range(0, len(items), _BLOCK):
        block = users @ items[start : start + _BLOCK].T
        best = block.topk(min(k, block.shape[1]), 1)
        scores.append(best.values)
        found.append(best.indices + (start + 1))
    best = torch.cat(scores, 1).topk(k, 1)
    return TopK(torch.cat(found, 1).gather(1, best.indices), best.values)


def agreement(model: RandomVectors, batch: SequenceBatch, ours: TopK, theirs: TopK) -> dict[str, float]:
    """How far two exact sides agree; they must, but for items of equal scores within rounding."""
    users = model.user_vectors(batch).double()
    norms = users.norm(dim=1, keepdim=True) * model.items.norm(dim=1).max().double()
    difference = float(((ours.scores.double() - theirs.scores.double()).abs() / norms).max())
    picked = (model.items[theirs.items].double() * users[:, None]).sum(2)
    missed = float(((ours.scores.double() - picked).abs() / norms).max())
    if max(difference, missed) > 1e-6:
        raise SystemExit(f"the lists differ: by {difference:.1e} in scores, {missed:.1e} in what they hold")
    same = (ours.items == theirs.items).all(1).double().mean()
    return {"same_lists": round(float(same), 4), "largest_difference": difference}


def overlap(scan: Any, model: RandomVectors, batch: SequenceBatch, exact: TopK, k: int, users: int = 16) -> float:
    """The share of the exact lists that a scan finds whose best are taken as they are."""
    table = scan_table(scan)(model.items[None, 1:])
    scanned = table.scanned(model.user_vectors(batch)[:users])
    scores = torch.empty(model.n_items, len(scanned.narrow), dtype=table.score_dtype)
    table.scores(scanned, 0, scores)
    found = scores.T.contiguous().topk(k, 1).indices + 1
    hits = (exact.items[:users, :, None] == found[:, None]).any(2)
    return round(float(hits.double().mean()), 4)


def peak_memory(n: int, given: argparse.Namespace) -> float:
    """MiB of a process that ranks users who stream through it."""
    words = ["--memory-of", n, "--dimensions", given.dimensions, "--memory-users", given.memory_users, "--k", given.k]
    command = [sys.executable, __file__, *map(str, words), "--threads", str(given.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["peak_rss_mib"]


def stream(n: int, d: int, users: int, k: int) -> None:
    """Ranks users batch after batch and prints the peak of memory, that of the model's vectors included."""
    ranker = Ranker(RandomVectors(n, d), scan="auto")
    for start in range(0, users, BATCH):
        ids = torch.arange(start, min(start + BATCH, users))
        ones = torch.ones(len(ids), dtype=torch.int64)
        ranker(SequenceBatch.build(ids, ones, ones, ones), k)
    print(json.dumps({"peak_rss_mib": round(peak_rss_mib(), 1)}))


if __name__ == "__main__":
    main()
