"""Memory and time of the full softmax over 10^6 items, beside `F.cross_entropy` on the whole matrix of logits.

Each side takes one step, forward and backward, in a process of its own, whose peak memory is read from the kernel; what
the process holds before the step (libraries, the item matrix, the queries) is taken off.

    python experiments/benchmarks/softmax_memory.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from _record import ratio, record

SIDES = ("naive", "ours", "ours_bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--memory-mib", type=float, default=256.0, help="budget of our logits")
    parser.add_argument("--repeats", type=int, default=4, help="timed steps; the fastest counts")
    parser.add_argument("--side", choices=SIDES, help="measure one side here and print it, without a record")
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    sides = {side: measure_apart(side) for side in SIDES}
    naive, ratios = sides["naive"], {}
    for side in SIDES[1:]:
        ours = sides[side]
        label = "" if side == "ours" else "/bf16"
        ratios[f"peak_memory{label}"] = ratio(ours["peak_mib"], naive["peak_mib"], "MiB above the inputs")
        ratios[f"speed{label}"] = ratio(
            ours["step_s"], naive["step_s"], "s per step", value=naive["step_s"] / ours["step_s"]
        )
    ratios["loss"] = ratio(sides["ours"]["loss"], naive["loss"], "nats")
    settings = {name: getattr(arguments, name) for name in ("items", "rows", "dim", "memory_mib", "repeats")}
    path = record("softmax_memory", ratios, settings=settings)
    print(json.dumps(ratios, indent=2))
    print(f"written: {path.name}")


def measure_apart(side: str) -> dict[str, float]:
    """One side in a fresh process with the same arguments."""
    done = subprocess.run([sys.executable, *sys.argv, "--side", side], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Steps of one side in this process: peak memory above the inputs, the fastest time and the loss."""
    import torch
    import torch.nn.functional as F

    from recsys.losses import FullSoftmax

    torch.manual_seed(0)
    queries = torch.randn(arguments.rows, arguments.dim).requires_grad_()
    items = torch.empty(arguments.items + 1, arguments.dim)  # filled in place, so that the peak before is what is held
    items.normal_(std=arguments.dim**-0.5).requires_grad_()
    target = torch.randint(1, arguments.items + 1, (arguments.rows,))
    ours = FullSoftmax(memory_mib=arguments.memory_mib, bf16=arguments.side == "ours_bf16")

    def step() -> float:
        queries.grad = items.grad = None
        if arguments.side == "naive":  # item 0 is a candidate here: one in a million
            loss = F.cross_entropy(queries @ items.T, target)
        else:
            loss = ours(queries, items, target).loss
        loss.backward()
        return loss.item()

    before = peak_mib()
    times = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        loss = step()
        times.append(time.perf_counter() - start)
    return {"peak_mib": peak_mib() - before, "step_s": min(times), "loss": loss}


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    main()
