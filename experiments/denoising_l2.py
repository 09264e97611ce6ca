"""Chooses the weight of L2 for each method of `denoising.py` on validation users, at one noise.

Which method is best depends on it: with too small a weight a model learns the noise by heart, and choosing positives
looks like a remedy for that; so it does with the weight that suits another noise. Each method therefore gets the weight
that validates best for it at the noise that it is judged with. From the first weight of the grid it goes to the next
one as long as that is better, in both directions, so that the best one has a worse one on both sides, unless it is the
least or the largest of the grid: then it says so. What is done is skipped.
Writes a JSON of each method into `experiments/results/denoising/<dataset>/l2`, which `denoising.py --l2 chosen` reads.

    python experiments/denoising_l2.py --method plain uniform_k r_ce t_ce pld pld_std pld_t1 oracle
    python experiments/denoising_l2.py --noise natural --method plain uniform_k pld pld_std
    python experiments/denoising_l2.py --dataset gowalla --noise 0.5 --method uniform_k pld_std --seeds 2024
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from _denoising import BACKBONES, CHOSEN_BY, MAIN, METHODS, SEEDS, Row, settings_of
from _denoising_data import NATURAL, NOISES, RATIOS
from _denoising_l2 import CHOSEN, GRID, path_of
from _denoising_runs import RUNS, is_done, run, run_path, run_settings, validated
from _made_by import made_by
from _results import write_json
from _runs import ROOT, say

from recsys.cli.allocator import keep_freed_memory


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    if given.noise not in NOISES[given.dataset]:
        parser().error(f"{given.dataset} has no {given.noise} noise; choose one of {', '.join(NOISES[given.dataset])}")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for method in given.method:
        choose(Row(given.dataset, given.noise, given.backbone, method, CHOSEN), given.l2, given.seeds, argv)
    return 0


def choose(row: Row, grid: Sequence[float], seeds: Sequence[int], argv: Sequence[str] | None) -> None:
    """Finds the weight of one method, and writes its JSON."""
    started = time.perf_counter()
    values = climb(partial(trained, row, seeds), grid)
    best = max(values, key=values.__getitem__)
    if best in (min(grid), max(grid)):
        say(f"{row.method}: the best weight, {best:g}, is at the edge of the grid; give it weights beyond")
    content = {
        "dataset": row.dataset,
        "noise": row.noise,
        "backbone": row.backbone,
        "method": row.method,
        "seeds": list(seeds),
        "chosen_by": f"validation {CHOSEN_BY}",
        "validation": {f"{l2:g}": value for l2, value in values.items()},
        "chosen": best,
        "settings": {name: value for name, value in settings_of(row).items() if name != "l2"},
        **made_by(__file__, argv, started),
    }
    path = ROOT / path_of(row.dataset, row.noise, row.backbone, row.method)
    write_json(path, content, indent=2)
    say(f"wrote {path.relative_to(ROOT)}")


def climb(value_of: Callable[[float], float], grid: Sequence[float]) -> dict[float, float]:
    """Weight of L2 -> its value, of those that were tried from the first of the grid on, up and then down."""
    weights, best = sorted(set(grid)), grid[0]
    values = {best: value_of(best)}
    for direction in (1, -1):
        while 0 <= (place := weights.index(best) + direction) < len(weights):
            weight = weights[place]
            values[weight] = values[weight] if weight in values else value_of(weight)
            if values[weight] <= values[best]:
                break
            best = weight
    return dict(sorted(values.items()))


def trained(row: Row, seeds: Sequence[int], l2: float) -> float:
    """The mean over seeds of the best validation value of a training with a weight."""
    settings = run_settings(row, l2=l2)
    found = []
    for seed in seeds:
        path = run_path(ROOT / RUNS, row, settings, seed)
        if not is_done(path, settings):
            run(row, seed, settings, path)
        found.append(max(validated(json.loads(path.read_text(encoding="utf-8")))))
    return sum(found) / len(found)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dataset", choices=NOISES, default="movielens_100k")
    made.add_argument("--noise", choices=(*RATIOS, NATURAL), default="0.3")
    made.add_argument("--backbone", choices=BACKBONES, default="mf")
    made.add_argument("--method", choices=METHODS, nargs="+", default=MAIN)
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="each with its own parts, noise and weights")
    made.add_argument("--l2", type=float, nargs="+", default=GRID, help="weights, the likeliest first")
    return made


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
