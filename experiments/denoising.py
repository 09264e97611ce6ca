"""Trains backbones on positives with injected or natural noise, by every method, and writes one JSON per row.

A row is a data set, a noise, a backbone, a method and a weight of L2, which is that of the publication or the one that
`denoising_l2.py` chose for the method; its JSON is written into `experiments/results/denoising` when all its seeds are
done, and tables of all rows beside them; a picture of those of MovieLens-100K goes into `docs/images`. What is done is
skipped, one run after the other on one thread, so that an interrupted study goes on where it stopped. A data set that
is not there is left out.

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
from pathlib import Path
from typing import Any

from _denoising import BACKBONES, MAIN, METHODS, SEEDS, SMOKE, Row
from _denoising_data import NATURAL, NOISES
from _denoising_l2 import CHOSEN, PUBLISHED, RESULTS, choice
from _denoising_page import page, read
from _denoising_picture import draw
from _denoising_runs import RUNS, is_done, run, run_path, run_settings
from _results import provenance, spread, write, write_text
from _runs import ROOT, say

from recsys.cli.allocator import keep_freed_memory

PICTURED, PICTURE = "movielens_100k", Path("docs/images/noisy_positives.png")


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
        show(ROOT / results, ROOT / (PICTURE if not given.smoke else results / PICTURE.name))
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
        for weight in (PUBLISHED, *([CHOSEN] if choice(of_data, n, b, m) else []))
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
            **({"l2_seeds": of_l2["seeds"]} if row.l2 == CHOSEN and (of_l2 := choice(*row[:4])) else {}),
            "machine": found[-1]["machine"],
        },
    }
    write(content, results)


def show(results: Path, picture: Path) -> None:
    """Writes `DENOISING.md`, and the picture of MovieLens-100K."""
    rows = read(results)
    write_text(results / "DENOISING.md", page(rows))
    drawn = draw(rows, PICTURED, picture)
    for path in (results / "DENOISING.md", *([picture] if drawn else [])):
        say(f"wrote {path.relative_to(ROOT)}")


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
