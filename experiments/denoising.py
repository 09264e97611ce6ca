"""Trains backbones on positives with injected noise, by every method, and writes one JSON per row.

A row is a backbone, a method and a ratio of noise; its JSON is written into `experiments/results/denoising` when all
its seeds are done, and a table of all rows beside them. What is done is skipped, one run after the other on one thread,
so that an interrupted study goes on where it stopped.

    python experiments/denoising.py --list
    python experiments/denoising.py --backbone mf --ratio 0.3 --seeds 2024 2025
    python experiments/denoising.py --method 'bce*'
    python experiments/denoising.py --smoke
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import shlex
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from _denoising import BACKBONES, DATASET, MAIN, METHODS, RATIOS, SEEDS, SETTINGS, SMOKE, Row, described, train
from _markdown import markdown, number
from _results import write
from _runs import ROOT, say

RUNS, RESULTS = Path("runs/denoising"), Path("experiments/results/denoising")
COLUMNS = ("Recall@20", "Recall@50", "NDCG@20", "NDCG@50", "NDCG-all@20", "NDCG-all@50", "tail Recall@20")
SHARES = ("injected_pool_share", "injected_share", "effective_pool_size")
NOTE = (
    "Made by `python experiments/denoising.py` from the JSON files in this folder; never edited by hand. Ratings of 4 "
    "and more of users who gave at least ten, 70 % training, 10 % validation and 20 % test of each user at random. "
    "Noise is added to training alone, outside of all that the user has. The whole catalogue is ranked without the "
    "training items. Mean ± standard deviation over seeds, each with its own parts, noise and weights. NDCG-all "
    "divides by the gain of all test items, however many. Shares are means over the epochs after the tenth: of noise "
    "in the pools, and of noise in what was trained on."
)


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(1)
    runs, results = (RUNS, RESULTS) if not given.smoke else (Path("runs/smoke_denoising"),) * 2
    settings = SETTINGS | (SMOKE if given.smoke else {})
    seeds = given.seeds if not given.smoke else SEEDS[:1]
    rows = selected(given.backbone, given.method, given.ratio if not given.smoke else [0.3])
    if not rows:
        parser().error("no row matches; `--list` shows all")
    by_row = {row: settings | {"method": described(row.method)} for row in rows}
    for seed in seeds:  # seed by seed: every table has all its rows early
        for row, of_row in by_row.items():
            path = ROOT / runs / DATASET / row.protocol / row.model / f"{seed}.json"
            state = "done" if is_done(path, of_row) else "new"
            if given.list:
                print(f"{state:<5} {row.protocol}/{row.model}/{seed}")
            elif state == "new":
                run(row, seed, of_row, path)
                publish(row, seeds, of_row, ROOT / runs, ROOT / results)
    if not given.list:
        for row, of_row in by_row.items():
            publish(row, seeds, of_row, ROOT / runs, ROOT / results)
        table(ROOT / results)
    return 0


def selected(backbone: str, method: str, ratios: Sequence[float]) -> list[Row]:
    """The rows whose names match the globs, those of the main table first."""
    methods = sorted(METHODS, key=lambda name: (name not in MAIN, [*METHODS].index(name)))
    return [
        Row(b, m, ratio)
        for m in methods
        for b in BACKBONES
        for ratio in ratios
        if fnmatchcase(b, backbone) and fnmatchcase(m, method)
    ]


def is_done(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a run was made with these settings."""
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] == settings


def run(row: Row, seed: int, settings: dict[str, Any], path: Path) -> None:
    """One training, whose JSON appears when it is finished."""
    from recsys.tracking.environment import git_state, machine, versions

    started, cpu = time.perf_counter(), time.process_time()
    found = train(row, seed, settings)
    content = found | {
        "settings": settings,
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "versions": versions(),
        "git": git_state(ROOT),
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
    unfinished.replace(path)
    metrics = found["metrics"]
    say(
        f"{row.protocol}/{row.model}/{seed}: Recall@20 {metrics['Recall@20']:.4f}, best epoch {found['best_epoch']}, "
        f"{content['wall_s']} s, {content['cpu_s']} s of the processor"
    )


def publish(row: Row, seeds: Iterable[int], settings: dict[str, Any], runs: Path, results: Path) -> None:
    """Writes the JSON of a row whose runs are all done."""
    from recsys.evaluation.intervals import over_seeds

    seeds = list(seeds)
    paths = [runs / DATASET / row.protocol / row.model / f"{seed}.json" for seed in seeds]
    if not all(is_done(path, settings) for path in paths):
        return
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    metrics = {}
    for name in found[0]["metrics"]:
        spread = over_seeds([one["metrics"][name] for one in found])
        sd = None if math.isnan(spread.sd) else spread.sd
        metrics[name] = {"mean": spread.mean, "sd": sd, "values": list(spread.values)}
    words = ["--backbone", row.backbone, "--method", row.method, "--ratio", str(row.ratio), "--seeds", *map(str, seeds)]
    content = {
        "dataset": DATASET,
        "protocol": row.protocol,
        "model": row.model,
        "metrics": metrics,
        "seeds": seeds,
        "baselines_run": [],
        "best_epochs": [one["best_epoch"] for one in found],
        "curves": found[0]["curves"],
        "wall_s": round(sum(one["wall_s"] for one in found) / len(found), 1),
        "peak_rss_mib": max(one["peak_rss_mib"] for one in found),
        "versions": found[-1]["versions"],
        "git": {
            "revisions": sorted({one["git"]["revision"] for one in found if one["git"]}),
            "dirty": any(one["git"]["dirty"] for one in found if one["git"]),
        },
        "command": shlex.join(["python", "experiments/denoising.py", *words]),
        "settings": {
            "note": METHODS[row.method].note,
            "arguments": settings,
            "machine": found[-1]["machine"],
        },
    }
    write(content, results)


def table(results: Path) -> None:
    """Writes `DENOISING.md` from the JSON files beside it, and from nothing else."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/noise_*/*.json"))]
    parts = ["# Training on noisy positives", NOTE]
    for protocol in sorted({row["protocol"] for row in rows}):
        of_ratio = [row for row in rows if row["protocol"] == protocol]
        parts.append(f"## {DATASET}, {protocol.removeprefix('noise_')} noisy items for each training item")
        for backbone in BACKBONES:
            own = {
                row["model"].removeprefix(f"{backbone}_"): row for row in of_ratio if row["model"].startswith(backbone)
            }
            if own:
                parts += [f"### {backbone}", _table([(name, own[name]) for name in METHODS if name in own])]
    path = results / "DENOISING.md"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    unfinished.replace(path)
    say(f"wrote {path.relative_to(ROOT)}")


def _table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    best = {c: max(row["metrics"][c]["mean"] for n, row in rows if n != "oracle") for c in COLUMNS}
    lines = []
    for name, row in rows:
        metrics = row["metrics"]
        cells = [number(metrics[column], metrics[column]["mean"] == best[column]) for column in COLUMNS]
        shares = [f"{metrics[share]['mean']:.3f}" if share in metrics else "" for share in SHARES]
        lines.append([name, *cells, *shares, ", ".join(map(str, row["best_epochs"]))])
    return markdown(["method", *COLUMNS, "noise in pools", "noise trained on", "effective pool", "best epochs"], lines)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--backbone", default="*", help="glob")
    made.add_argument("--method", default="*", help="glob")
    made.add_argument("--ratio", type=float, nargs="+", default=RATIOS, choices=RATIOS)
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run these only; JSONs are written for them")
    made.add_argument("--list", action="store_true", help="show the runs and their states, and do nothing")
    made.add_argument("--smoke", action="store_true", help="two epochs, one seed, one ratio: does everything run?")
    return made


if __name__ == "__main__":
    sys.exit(main())
