"""Time of a step and memory of a rank over sharded tables of 10^5 to 2x10^7 rows; and dense gradients beside it.

A step of SynerGen in Lightning's Trainer (batch, forward, sampled softmax, backward, optimizers), with TorchRecStrategy
and tables cut by rows, on one rank with all threads and on two ranks that share batch and threads. Ids are drawn
uniformly from the whole table, which is the worst case for caches. Beside it, on one rank, the same network as most
Lightning jobs have it: `nn.Embedding` with dense gradients and `torch.optim.Adam`.

Every size is a process group of its own. So that other work on the machine does not decide, all are run several times
in turns, and the fastest median of each counts. Of several ranks the slowest and the largest counts. `memory` is that
of tables and optimizer state in a rank, dense gradients included; `peak` all that a process ever held.

    python experiments/benchmarks/sharded_step_cost.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from _record import ratio, record
from _sharded_worker import Settings

from recsys.cli.allocator import SETTINGS as ALLOCATOR

LIMIT = 1.3
WORKER = Path(__file__).with_name("_sharded_worker.py")
DENSE_COPIES = 6
"""Table, gradient, two moments, and what `torch.optim.Adam` needs of the same size while it steps."""

Facts = dict[str, Any]


class Case(NamedTuple):
    rows: int
    ranks: int
    sharded: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(100_000, 1_000_000, 10_000_000, 20_000_000))
    parser.add_argument("--dense-rows", type=int, nargs="*", default=(100_000, 1_000_000, 10_000_000))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128, help="sequences of a step, of all ranks together")
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=20, help="steps, which touch the optimizer's state first")
    parser.add_argument("--steps", type=int, default=30, help="timed steps")
    parser.add_argument("--dense-steps", type=int, default=6, help="timed steps after two, with dense gradients")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dense-repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of all ranks together")
    given = parser.parse_args()
    sharded = [Case(rows, ranks) for rows in sorted(given.rows) for ranks in (1, 2)]
    dense = [case for rows in sorted(given.dense_rows) if fits(case := Case(rows, 1, sharded=False), given.width)]
    found: dict[Case, Facts] = {}
    for repeat in range(max(given.repeats, given.dense_repeats)):
        for case in [*sharded[: len(sharded) * (repeat < given.repeats)], *dense * (repeat < given.dense_repeats)]:
            found[case] = faster(found.get(case), measure(case, given))
            print(case, {name: round(value, 4) for name, value in found[case].items()}, flush=True)
    ratios = compare(found)
    for name, entry in ratios.items():
        print(name, entry)
    settings = {name: value for name, value in vars(given).items() if "rows" not in name}
    facts = [case._asdict() | facts for case, facts in found.items()]
    print(f"written: {record('sharded_step_cost', ratios, settings=settings, limit=LIMIT, facts=facts).name}")


def fits(case: Case, width: int) -> bool:
    """Whether the machine has the memory for dense gradients; says so when it has not."""
    needed, there = DENSE_COPIES * 4 * case.rows * width, psutil.virtual_memory().available
    if needed > there:
        print(f"dense gradients at {case.rows:,} rows left out: {needed / 2**30:.1f} of {there / 2**30:.1f} GiB")
    return needed <= there


def measure(case: Case, given: argparse.Namespace) -> Facts:
    """What a process group of its own says of a case.

    Raises:
        RuntimeError: it failed; the message is the end of what it printed.
    """
    warm_up, steps = (given.warm_up, given.steps) if case.sharded else (2, given.dense_steps)
    settings = Settings(**case._asdict(), **_pick(given, "width", "batch", "length"), warm_up=warm_up, steps=steps)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.ranks), str(WORKER)]
    environment = os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(max(1, given.threads // case.ranks))}
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder, "task.json"), Path(folder, "answer.json")
        task.write_text(json.dumps(asdict(settings)))
        done = subprocess.run(
            [sys.executable, *words, str(task), str(answer)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{case} failed:\n{done.stderr[-3000:]}")
        facts: Facts = json.loads(answer.read_text())
        return facts


def _pick(given: argparse.Namespace, *names: str) -> dict[str, int]:
    return {name: getattr(given, name) for name in names}


def faster(before: Facts | None, now: Facts) -> Facts:
    return now if before is None or now["seconds"] < before["seconds"] else before


def compare(found: dict[Case, Facts]) -> dict[str, dict[str, float | str]]:
    """The ratios: what rows cost, what a second rank saves, and what dense gradients cost."""
    ratios = {}
    for ranks in (1, 2):
        seconds = {case.rows: facts["seconds"] for case, facts in found.items() if case.sharded and case.ranks == ranks}
        name, unit = f"ranks_{ranks}", "s per step"
        ratios[f"{name}/slowest_to_fastest"] = ratio(max(seconds.values()), min(seconds.values()), unit)
        smallest = min(seconds)
        for rows in sorted(seconds)[1:]:
            ratios[f"{name}/rows_{rows}"] = ratio(seconds[rows], seconds[smallest], unit)
    for rows, (name, key) in itertools.product(
        sorted({case.rows for case in found if case.sharded}), (("memory", "held_mib"), ("peak", "peak_rss_mib"))
    ):
        one, two = found[Case(rows, 1)], found[Case(rows, 2)]
        ratios[f"{name}/rows_{rows}"] = ratio(one[key], two[key], "MiB of one rank / of each of two")
    for case in sorted(case for case in found if not case.sharded):
        ours = found.get(Case(case.rows, 1))
        for name, key, unit in (("dense", "seconds", "s per step"), ("dense_memory", "held_mib", "MiB")):
            if ours is not None:
                ratios[f"{name}/rows_{case.rows}"] = ratio(found[case][key], ours[key], unit)
    return ratios


if __name__ == "__main__":
    main()
