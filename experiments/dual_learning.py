"""Dual learning beside other ways of learning from biased clicks, on simulated sessions with known relevance.

    severity   methods at five severities of position bias, and the propensities that they find
    ranker     strength of the production ranker and number of sessions: where dual learning stops to help
    users      users whose examination depends on more than the position

Each cell is a training of one seed and is kept in `--cells`: what is finished is skipped, so that Ctrl-C and the same
command go on. Tables are written from the cells that are there.

    python experiments/dual_learning.py
    python experiments/dual_learning.py --smoke
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import torch
from _dla_cells import SMOKE, Cell, Size, cells, run
from _dla_tables import table
from _record import STACK, command, machine, versions

from recsys.evaluation.plots import propensity_curves

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "dual_learning"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default="*", help="of these tables alone, a pattern")
    parser.add_argument("--cell", default="*", help="these cells alone, a pattern of their names")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cells", type=Path, default=ROOT / "runs" / "dual_learning")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="show the cells and their state, and train nothing")
    parser.add_argument("--smoke", action="store_true", help="small and short, into runs/smoke: shows that all runs")
    given = parser.parse_args()
    if given.smoke:
        given.seeds, given.cells = 1, ROOT / "runs" / "smoke" / "dual_learning"
        given.results = given.cells / "results"
        shutil.rmtree(given.cells, ignore_errors=True)
    torch.set_num_threads(1)
    size = SMOKE if given.smoke else Size()
    tables = {name: made for name, made in cells(given.seeds).items() if fnmatch(name, given.table)}
    wanted = [cell for cell in dict.fromkeys(chain(*tables.values())) if fnmatch(cell.name, given.cell)]
    # Seed by seed, so that an interrupted study has all methods of the first seeds.
    wanted.sort(key=lambda cell: cell.seed)
    todo = [cell for cell in wanted if read(given.cells, cell, size) is None]
    print(f"{len(wanted)} cells, {len(todo)} to do", flush=True)
    if given.list:
        print(*(f"{'to do' if cell in todo else 'done '} {cell.name}" for cell in wanted), sep="\n")
        return
    for number, cell in enumerate(todo, start=1):
        started = time.perf_counter()
        write_json(given.cells / f"{cell.name}.json", run(cell, size))
        print(f"[{number}/{len(todo)}] {cell.name}: {time.perf_counter() - started:.0f} s", flush=True)
    for name, of_table in tables.items():
        gather(name, of_table, given.cells, given.results, size)


def gather(name: str, of_table: list[Cell], folder: Path, results: Path, size: Size) -> None:
    """Writes the JSON of a table, and the pictures of its propensities."""
    finished = {cell.name: found for cell in of_table if (found := read(folder, cell, size)) is not None}
    rows = table(of_table, finished)
    if not rows:
        return
    content = {
        "table": name,
        "rows": rows,
        "size": asdict(size),
        "machine": machine(),
        "versions": versions(STACK),
        "command": command(),
    }
    write_json(results / f"{name}.json", content)
    for row in rows:
        if row["method"] != "dual" or row["sessions"] is not None:
            continue
        setting = {key: row[key] for key in ("users", "eta", "ranker")}
        beside = [r for r in rows if {k: r[k] for k in setting} == setting and r["sessions"] is None]
        curves = {r["method"]: r["propensities"] for r in beside if "propensities" in r and r["method"] != "ipw_true"}
        title = f"{row['users']}, severity {row['eta']:g}, {row['ranker']} production ranker"
        picture = results / f"{row['users']}-{row['eta']:g}-{row['ranker']}.png"
        unfinished = picture.with_suffix(".tmp")
        propensity_curves(curves, row["examined"], title=title).savefig(unfinished, format="png", dpi=110)
        unfinished.replace(picture)
    print(f"wrote {name}.json: {len(finished)} of {len(set(of_table))} cells", flush=True)


def read(folder: Path, cell: Cell, size: Size) -> dict[str, Any] | None:
    """The content of a finished cell of this size."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content if content["size"] == asdict(size) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
