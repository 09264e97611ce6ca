"""Dual learning beside other ways of learning from biased clicks, on simulated sessions with known relevance.

    severity   methods at five severities of position bias, and the propensities that they find
    ranker     strength of the production ranker and number of sessions: where dual learning stops to help
    users      users whose examination depends on more than the position
    switch     position bias that becomes more severe in mid-training, and how fast propensities follow
    slates     SynerGen's ranking head on slates of films, whose relevance is that of completed ratings
    ltr        the learning-to-rank example of LightGBM with its grades, if `RECSYS_DATA` has it

Each cell is a training of one seed and is kept in `--cells`: what is finished is skipped, so that Ctrl-C and the same
command go on. Tables are written from the cells that are there.

    python experiments/dual_learning.py
    python experiments/dual_learning.py --smoke
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import torch
from _dla_cells import SMOKE, Cell, Size, cells, run
from _dla_ltr import NAME as LTR
from _dla_ltr import SMOKE as SMOKE_LTR
from _dla_ltr import LtrSize, ltr_cells, run_ltr
from _dla_pictures import draw_settings, draw_switch
from _dla_slates import SMOKE as SMOKE_SLATES
from _dla_slates import SlateSize, run_slates, slate_cells
from _dla_switch import run_switch, switch_cells, switch_table
from _dla_tables import table
from _record import STACK, command, machine, versions
from _results import write_json

from recsys.features.datasets import DatasetError
from recsys.features.judged_queries import load_judged

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
    tables = {name: made for name, made in all_tables(given.seeds, given.smoke).items() if fnmatch(name, given.table)}
    owner = {cell: made for made in tables.values() for cell in made.cells if fnmatch(cell.name, given.cell)}
    # Seed by seed, so that an interrupted study has all methods of the first seeds.
    wanted = sorted(owner, key=lambda cell: cell.seed)
    todo = [cell for cell in wanted if read(given.cells, cell, owner[cell].size) is None]
    print(f"{len(wanted)} cells, {len(todo)} to do", flush=True)
    if given.list:
        print(*(f"{'to do' if cell in todo else 'done '} {cell.name}" for cell in wanted), sep="\n")
        return
    for number, cell in enumerate(todo, start=1):
        started = time.perf_counter()
        found = owner[cell].run(cell, owner[cell].size)
        write_json(given.cells / f"{cell.name}.json", found, indent=1, allow_nan=False)
        print(f"[{number}/{len(todo)}] {cell.name}: {time.perf_counter() - started:.0f} s", flush=True)
    for name, made in tables.items():
        gather(name, made, given.cells, given.results)


@dataclass(frozen=True)
class Table:
    """What a table is made of.

    Attributes:
        cells: its trainings.
        size: of each.
        run: trains and judges one.
        rows: from finished cells to its rows.
        draw: its pictures.
    """

    cells: list[Cell]
    size: Any
    run: Callable[[Cell, Any], dict[str, Any]]
    rows: Callable[[Sequence[Cell], Mapping[str, dict[str, Any]]], list[dict[str, Any]]] = table
    draw: Callable[[Sequence[dict[str, Any]], Path], None] = draw_settings


def all_tables(seeds: int, smoke: bool) -> dict[str, Table]:
    """The tables by name; without its data set a table is left out, which is said."""
    size, of_slates = (SMOKE, SMOKE_SLATES) if smoke else (Size(), SlateSize())
    made = {name: Table(of_table, size, run) for name, of_table in cells(seeds).items()}
    slates = Table(slate_cells(seeds, of_slates), of_slates, run_slates)
    made |= {
        "switch": Table(switch_cells(seeds), size, run_switch, switch_table, draw_switch),
        "slates": replace(slates, draw=partial(draw_settings, sessions=of_slates.slates)),
    }
    try:
        load_judged(LTR)
    except DatasetError as missing:
        print(f"table `ltr` is left out: {missing}", flush=True)
    else:
        made["ltr"] = Table(ltr_cells(seeds), SMOKE_LTR if smoke else LtrSize(), run_ltr)
    return made


def gather(name: str, made: Table, folder: Path, results: Path) -> None:
    """Writes the JSON of a table, and the pictures of its propensities."""
    finished = {cell.name: found for cell in made.cells if (found := read(folder, cell, made.size)) is not None}
    rows = made.rows(made.cells, finished)
    if not rows:
        return
    content = {
        "table": name,
        "rows": rows,
        "size": asdict(made.size),
        "machine": machine(),
        "versions": versions(STACK),
        "command": command(),
    }
    write_json(results / f"{name}.json", content, indent=1, allow_nan=False)
    made.draw(rows, results)
    print(f"wrote {name}.json: {len(finished)} of {len(set(made.cells))} cells", flush=True)


def read(folder: Path, cell: Cell, size: Any) -> dict[str, Any] | None:
    """The content of a finished cell of this size."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content if content["size"] == asdict(size) else None


if __name__ == "__main__":
    main()
