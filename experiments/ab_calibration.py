"""Whether the statistics of live tests keep what they promise, over many simulated experiments.

A/A tests of fixed horizon and under continuous peeking, planned and reached power, what CUPED takes away, checks of the
split, and how much sooner interleaving tells two rankers apart. Writes `experiments/results/ab/*.json` and
`docs/images/ab_peeking.png`; `--smoke` writes small ones into `runs/smoke/ab`.

    python experiments/ab_calibration.py
    python experiments/ab_calibration.py --smoke
    python experiments/ab_calibration.py --part interleaving
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _ab_parts as parts
import numpy as np
from _ab_interleaving import Comparison, sensitivity
from _made_by import made_by
from _results import write_json
from _runs import ROOT, say

from recsys.evaluation.plots import ever_rejected

RESULTS, SMOKE = Path("experiments/results/ab"), Path("runs/smoke/ab")
PICTURE = Path("docs/images/ab_peeking.png")
LEVEL = 0.05
DRAWN = ("plain test, a look at every user", "plain test, 20 looks", "confidence sequence, a look at every user")


def sizes(smoke: bool) -> dict[str, dict[str, Any]]:
    """Settings of each part."""
    if smoke:
        return {
            "fixed": {"experiments": 30, "users": 200},
            "peeking": {"experiments": 30, "users": 400},
            "stopping": {"experiments": 20, "users": 300},
            "power": {"experiments": 10},
            "cuped": {"users": 2000},
            "sample_ratio": {"experiments": 10, "users": 1000},
            "interleaving": {"experiments": 10, "users": 200},
            "returning": {"experiments": 10, "users": 200, "days": 7},
        }
    return {
        "fixed": {"experiments": 10_000, "users": 1000},
        "peeking": {"experiments": 10_000, "users": 5000},
        "stopping": {"experiments": 4000, "users": 2500},
        "power": {"experiments": 4000},
        "cuped": {"users": 200_000},
        "sample_ratio": {"experiments": 2000, "users": 20_000},
        "interleaving": {"experiments": 300, "users": 2000},
        "returning": {"experiments": 4000, "users": 1000, "days": 28},
    }


def functions() -> dict[str, Callable[..., dict[str, Any]]]:
    """What makes each part from a seed and its settings."""

    def drawn(make: Callable[..., dict[str, Any]], **fixed: Any) -> Callable[..., dict[str, Any]]:
        return lambda seed, **settings: make(np.random.default_rng(seed), **settings, **fixed)

    return {
        "fixed": drawn(parts.fixed_tests, level=LEVEL),
        "peeking": drawn(parts.peeking, level=LEVEL),
        "stopping": drawn(parts.stopping, level=LEVEL),
        "power": drawn(parts.power, level=LEVEL),
        "cuped": drawn(parts.cuped_reductions),
        "sample_ratio": drawn(parts.sample_ratio),
        "interleaving": interleaving,
        "returning": drawn(parts.returning, level=LEVEL),
    }


def interleaving(seed: int, experiments: int, users: int) -> dict[str, Any]:
    """Rankers that are far apart and rankers that are close."""
    rankers = {"far apart": (0.5, 0.1), "close": (0.3, 0.2)}
    return {
        name: sensitivity(seed + place, experiments, Comparison(users, 3, *noise))
        for place, (name, noise) in enumerate(rankers.items())
    }


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    folder = ROOT / (given.out or (SMOKE if given.smoke else RESULTS))
    settings = sizes(given.smoke)
    for number, (name, make) in enumerate(functions().items()):
        if given.part and name not in given.part:
            continue
        seed = 1000 * given.seed + number
        started = time.perf_counter()
        found = make(seed, **settings[name])
        content = {
            "found": found,
            "level": LEVEL,
            "settings": settings[name],
            "seed": seed,
            **made_by(__file__, argv, started),
        }
        content["versions"] |= {package: version(package) for package in ("numpy", "scipy", "statsmodels")}
        say(f"{name}: {content['seconds']} s, {write_json(folder / f'{name}.json', content, indent=2)}")
        if name == "peeking":
            draw(found, folder / PICTURE.name if given.smoke or given.out else ROOT / PICTURE)
    return 0


def draw(found: dict[str, Any], picture: Path) -> None:
    """The picture of peeking, under a temporary name first."""
    unfinished = picture.with_suffix(".tmp")
    curves = {name: (found["looks"], found["curves"][name]) for name in DRAWN}
    ever_rejected(curves, LEVEL).savefig(unfinished, format="png", dpi=110)
    unfinished.replace(picture)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--part", nargs="+", choices=list(functions()), help="these parts alone")
    made.add_argument("--smoke", action="store_true", help="a few small experiments, to see that everything runs")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, help="folder of the results")
    return made


if __name__ == "__main__":
    sys.exit(main())
