"""Time of a training step over tables of 10^5, 10^6 and 10^7 rows; and what dense gradients cost beside it.

A step of SynerGen (forward, sampled softmax, backward, optimizers) on batches whose ids are drawn uniformly from the
whole table, which is the worst case for caches. All sizes live in one process and take steps in turns, so that whatever
else the machine does hits all alike; the median counts. The optimizer's state is written once before the clock starts:
the first touch of a page is paid once in a run, not once a step. The contrast has the same network with dense gradients
and fused Adam.

    python experiments/benchmarks/embedding_step_cost.py
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from _record import ratio, record
from torch import nn

from recsys.cli.allocator import keep_freed_memory
from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.negatives import Uniform
from recsys.features.schema import Schema
from recsys.losses.info_nce import InfoNCE
from recsys.models.synergen import SynerGen
from recsys.training.module import adam
from recsys.training.objective import RetrievalObjective
from recsys.training.optimizers import CombinedOptimizer, table_parameters
from recsys.training.sparse_adam import SparseAdam

LIMIT = 1.3
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(100_000, 1_000_000, 10_000_000))
    parser.add_argument("--dense-rows", type=int, nargs="+", default=(100_000, 1_000_000))
    parser.add_argument("--steps", type=int, default=100, help="timed steps at each size")
    parser.add_argument("--dense-steps", type=int, default=10)
    parser.add_argument("--width", type=int, default=64, help="three times 4 bytes of this for each row")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    sparse = median_seconds(given, tuple(given.rows), given.steps, sparse=True)
    gc.collect()
    dense = median_seconds(given, tuple(given.dense_rows), given.dense_steps, sparse=False)
    smallest = min(given.rows)
    ratios = {
        "slowest_to_fastest": ratio(max(sparse.values()), min(sparse.values()), "s per step"),
        **{f"rows_{n}": ratio(sparse[n], sparse[smallest], "s per step") for n in given.rows if n != smallest},
        **{f"dense/rows_{n}": ratio(dense[n], sparse[n], "s per step") for n in dense if n in sparse},
    }
    for name, entry in ratios.items():
        print(name, entry)
    settings = {name: getattr(given, name) for name in ("width", "batch", "length", "steps", "dense_steps", "threads")}
    print(f"written: {record('embedding_step_cost', ratios, settings=settings, limit=LIMIT).name}")


def median_seconds(given: argparse.Namespace, sizes: tuple[int, ...], steps: int, sparse: bool) -> dict[int, float]:
    """Median time of a step at each size, taken in turns after three steps that warm up."""
    makers = {rows: training(given, rows, sparse) for rows in sizes}
    seconds: dict[int, list[float]] = {rows: [] for rows in sizes}
    for _ in range(3 + steps):
        for rows, step in makers.items():
            start = time.perf_counter()
            step()
            seconds[rows].append(time.perf_counter() - start)
    return {rows: statistics.median(taken[3:]) for rows, taken in seconds.items()}


def training(given: argparse.Namespace, rows: int, sparse: bool) -> Step:
    """A step of training over a table of `rows` rows."""
    torch.manual_seed(0)
    catalogue = Catalogue(
        schema=Schema(name="synthetic"),
        n_items=rows - 1,
        n_users=given.batch,
        table_rows={"item_id": rows},
        counts=torch.ones(rows, dtype=torch.int64),
        max_length=given.length,
    )
    network = SynerGen(catalogue, width=given.width, heads=1)
    for module in network.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = sparse
    objective = RetrievalObjective(InfoNCE(temperature=0.05), Uniform(256))
    objective.setup(catalogue, 0, torch.device("cpu"))
    tables = table_parameters(network)
    held = {id(table) for table in tables}
    parts: dict[str, torch.optim.Optimizer] = {
        "dense": adam([weight for weight in network.parameters() if id(weight) not in held])
    }
    if tables:
        parts["tables"] = SparseAdam(tables)
    optimizer = CombinedOptimizer(parts)

    def step() -> None:
        loss, _ = objective(network, batch(given, rows - 1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    for table in tables:
        for state in parts["tables"].state[table].values():
            if state.shape == table.shape:
                state.mul_(1.0)
    return step


def batch(given: argparse.Namespace, n_items: int) -> SequenceBatch:
    """Full histories with a day between events, and their targets."""
    events = given.batch * given.length
    days = torch.arange(given.length).repeat(given.batch) * 86_400
    return SequenceBatch.build(
        user_id=torch.arange(1, given.batch + 1),
        lengths=torch.full((given.batch,), given.length),
        item_id=torch.randint(1, n_items + 1, (events,)),
        timestamp=days,
        target=torch.randint(1, n_items + 1, (events,)),
        target_timestamp=days + 86_400,
    )


if __name__ == "__main__":
    main()
