"""Trains backbones on positives with injected or natural noise, by every method, and writes one JSON per row.

A row is a data set, a noise, a backbone, a method and a weight of L2, which is that of the publication or the one that
`denoising_l2.py` chose for the method; its JSON is written into `experiments/results/denoising` when all
its seeds are done, and a table of all rows beside them. What is done is skipped, one run after the other on one thread,
so that an interrupted study goes on where it stopped. A data set that is not there is left out.

    python experiments/denoising.py --list
    python experiments/denoising.py --dataset movielens_100k --backbone mf --noise 0.3 --seeds 2024 2025
    python experiments/denoising.py --method 'bce*' --l2 published
    python experiments/denoising.py --dataset gowalla --noise 0.0 --backbone lightgcn --method plain --seeds 2024
    python experiments/denoising.py --smoke
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from _denoising import BACKBONES, CHOSEN_BY, MAIN, METHODS, SEEDS, SMOKE, Row
from _denoising_data import NATURAL, NOISES
from _denoising_l2 import CHOSEN, PUBLISHED, PUBLISHED_L2, RESULTS, chosen
from _denoising_runs import RUNS, is_done, run, run_path, run_settings
from _markdown import markdown, number
from _results import provenance, spread, write, write_text
from _runs import ROOT, say

from recsys.cli.allocator import keep_freed_memory

COLUMNS = ("Recall@20", "Recall@50", "NDCG@20", "NDCG@50", "NDCG-all@20", "NDCG-all@50", "tail Recall@20")
SHARES = ("injected_pool_share", "injected_share", "effective_pool_size")
CONTROL = "uniform_k"
NOTE = (
    "Made by `python experiments/denoising.py` from the JSON files in this folder; never edited by hand. Of users who "
    "have at least ten positives, 70 % train, 10 % validate and 20 % test, of each user at random; in MovieLens a "
    "positive is a rating of 4 and more, in Gowalla a place. Injected noise is added to training alone, outside of all "
    "that the user has. Natural noise are the user's own ratings of 1 and 2, which train beside those of 3. The whole "
    "catalogue is ranked without the training items. Mean ± standard deviation over seeds, each with its own parts, "
    "noise and weights. NDCG-all divides by the gain of all test items, however many. Shares are means over the epochs "
    "after the tenth: of noise in the pools, and of noise in what was trained on. The weight of L2 is "
    f"{PUBLISHED_L2:g} as published, or the one that `denoising_l2.py` chose for each method on validation users of "
    "one seed, with the same noise. Differences from `uniform_k` have "
    "the 95 % interval of a paired t-test over seeds."
)


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import torch

    torch.set_num_threads(1)
    runs, results = (RUNS, RESULTS) if not given.smoke else (Path("runs/smoke_denoising"),) * 2
    smoke = SMOKE if given.smoke else {}
    seeds = given.seeds if not given.smoke else SEEDS[:1]
    rows = selected(given.dataset, given.noise, given.backbone, given.method, given.l2)
    rows = [row for row in rows if not given.smoke or row.noise in ("0.3", NATURAL)]
    if not rows:
        parser().error("no row matches; `--list` shows all, `denoising_l2.py` chooses weights of L2")
    if not given.list:
        rows = present(rows)
    by_row = {row: run_settings(row, **smoke) for row in rows}
    for seed in seeds:  # seed by seed: every table has all its rows early
        for row, of_row in by_row.items():
            path = run_path(ROOT / runs, row, of_row, seed)
            state = "done" if is_done(path, of_row) else "new"
            if given.list:
                print(f"{state:<5} {row.dataset}/{row.protocol}/{row.model}/{seed}")
            elif state == "new":
                run(row, seed, of_row, path)
                publish(row, seeds, of_row, ROOT / runs, ROOT / results)
    if not given.list:
        for row, of_row in by_row.items():
            publish(row, seeds, of_row, ROOT / runs, ROOT / results)
        table(ROOT / results)
    return 0


def selected(dataset: str, noise: str, backbone: str, method: str, l2: str) -> list[Row]:
    """The rows whose names match the globs, those of the main table first; of methods whose L2 was chosen, two each."""
    methods = sorted(METHODS, key=lambda name: (name not in MAIN, [*METHODS].index(name)))
    rows = [
        Row(of_data, n, b, m, weight)
        for m in methods
        for of_data, noises in NOISES.items()
        for b in BACKBONES
        for n in noises
        for weight in (PUBLISHED, *([CHOSEN] if chosen(of_data, n, b, m) is not None else []))
    ]
    return [row for row in rows if all(map(fnmatchcase, row, (dataset, noise, backbone, method, l2)))]


def present(rows: list[Row]) -> list[Row]:
    """The rows whose data can be found; says which cannot."""
    from recsys.features.datasets import DatasetError, load_dataset

    found = set()
    for dataset in dict.fromkeys(row.dataset for row in rows):
        try:
            load_dataset(dataset)
            found.add(dataset)
        except DatasetError as error:
            say(f"left out: {error}")
    return [row for row in rows if row.dataset in found]


def publish(row: Row, seeds: Iterable[int], settings: dict[str, Any], runs: Path, results: Path) -> None:
    """Writes the JSON of a row whose runs are all done."""
    seeds = list(seeds)
    paths = [run_path(runs, row, settings, seed) for seed in seeds]
    if not all(is_done(path, settings) for path in paths):
        return
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    words = [word for name, value in row._asdict().items() for word in (f"--{name}", value)]
    content = {
        "dataset": row.dataset,
        "protocol": row.protocol,
        "model": row.model,
        "metrics": {name: spread([one["metrics"][name] for one in found]) for name in found[0]["metrics"]},
        "seeds": seeds,
        "baselines_run": [],
        "best_epochs": [one["best_epoch"] for one in found],
        "curves": found[0]["curves"],
        **provenance(found),
        "versions": found[-1]["versions"],
        "command": shlex.join(["python", "experiments/denoising.py", *words, "--seeds", *map(str, seeds)]),
        "settings": {
            "note": METHODS[row.method].note,
            "arguments": settings,
            "machine": found[-1]["machine"],
        },
    }
    write(content, results)


def table(results: Path) -> None:
    """Writes `DENOISING.md`."""
    path = write_text(results / "DENOISING.md", page(results))
    say(f"wrote {path.relative_to(ROOT)}")


def page(results: Path) -> str:
    """All tables, from the JSON files of a folder and from nothing else."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*/noise_*/*.json"))]
    parts = ["# Training on noisy positives", NOTE]
    for dataset, noises in NOISES.items():
        for noise in noises:
            tables = []
            for backbone, l2 in product(BACKBONES, (PUBLISHED, CHOSEN)):
                table_of = dataset, Row(dataset, noise, backbone, "", l2).protocol
                of_table = {row["model"]: row for row in rows if (row["dataset"], row["protocol"]) == table_of}
                own = [(m, of_table[f"{backbone}_{m}"]) for m in METHODS if f"{backbone}_{m}" in of_table]
                tables += [f"### {backbone}, {l2} L2", _table(own)] if own else []
            title = "natural noise" if noise == NATURAL else f"{noise} noisy items for each training item"
            parts += [f"## {dataset}, {title}", *tables] if tables else []
    return "\n\n".join(parts) + "\n"


def _table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    best = {c: max(row["metrics"][c]["mean"] for n, row in rows if n != "oracle") for c in COLUMNS}
    lines = []
    for name, row in rows:
        metrics = row["metrics"]
        cells = [number(metrics[column], metrics[column]["mean"] == best[column]) for column in COLUMNS]
        shares = [f"{metrics[share]['mean']:.3f}" if share in metrics else "" for share in SHARES]
        control, epochs = less(row, dict(rows).get(CONTROL)), ", ".join(map(str, row["best_epochs"]))
        lines.append([name, l2_of(row), *cells, control, *shares, epochs])
    shares = ["noise in pools", "noise trained on", "effective pool"]
    return markdown(["method", "L2", *COLUMNS, f"{CHOSEN_BY} less {CONTROL}", *shares, "best epochs"], lines)


def l2_of(row: dict[str, Any]) -> str:
    """The weight that a published row was trained with."""
    return f"{row['settings']['arguments'].get('l2', PUBLISHED_L2):g}"


def less(row: dict[str, Any], control: dict[str, Any] | None) -> str:
    """Difference from the control, with the 95 % interval of a paired t-test over their common seeds; else nothing."""
    if control is None or row["model"] == control["model"] or row["seeds"] != control["seeds"] or len(row["seeds"]) < 2:
        return ""
    from scipy import stats

    values, others = (one["metrics"][CHOSEN_BY]["values"] for one in (row, control))
    found = stats.ttest_rel(values, others)
    low, high = found.confidence_interval()
    return f"{row['metrics'][CHOSEN_BY]['mean'] - control['metrics'][CHOSEN_BY]['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dataset", default="*", help="glob")
    made.add_argument("--noise", default="*", help=f"glob: a ratio of injected noise, or `{NATURAL}`")
    made.add_argument("--backbone", default="*", help="glob")
    made.add_argument("--method", default="*", help="glob")
    made.add_argument("--l2", default="*", help=f"glob: `{PUBLISHED}` or `{CHOSEN}`")
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run these only; JSONs are written for them")
    made.add_argument("--list", action="store_true", help="show the runs and their states, and do nothing")
    made.add_argument(
        "--smoke", action="store_true", help="two epochs, one seed, one ratio and natural noise: does everything run?"
    )
    return made


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
