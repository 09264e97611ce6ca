"""Trains and judges every declared row (`_rows.py`), and writes one JSON per row into `experiments/results`.

Each run is a process of one thread; what is done is skipped, what was interrupted (Ctrl-C, a kill) is resumed.

    python experiments/study.py --list
    python experiments/study.py --dataset amazon_beauty --protocol leave_last_out_strict --model synergen
    python experiments/study.py --smoke --model 'loss_*'
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _row import FEATURE_DATASETS, SEEDS, Row
from _rows import selected
from _runs import ROOT, Run, drive, say, with_first

RUNS, RESULTS = Path("runs/study"), Path("experiments/results")
SMOKE: dict[str, Any] = {"trainer.max_epochs": 1, "validation.users": 200}


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background jobs deaf to SIGINT
        signal.signal(number, signal.default_int_handler)
    root, results = (RUNS, RESULTS) if not arguments.smoke else (Path("runs/smoke"), Path("runs/smoke/results"))
    extra = tuple(SMOKE.items()) if arguments.smoke else ()
    try:
        rows = selected(arguments.dataset, arguments.protocol, arguments.model)
    except ValueError as error:
        parser().error(str(error))
    wanted = arguments.seeds if not arguments.smoke else SEEDS[:1]
    runs = with_first(Run(row, seed, root, extra) for row in rows for seed in row.seeds if seed in wanted)
    if arguments.list:
        for run in runs:
            print(f"{run.state():<12} {run.name}{f'  ({run.row.note})' if run.row.note else ''}")
        return 0
    try:
        bad = drive(runs, arguments.workers, arguments.again) if not arguments.gather else []
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    publish({run.row for run in runs}, root, extra, wanted, ROOT / results)
    return 1 if bad else 0


def publish(
    rows: Iterable[Row], root: Path, extra: tuple[tuple[str, Any], ...], seeds: Iterable[int], results: Path
) -> None:
    """Writes a JSON for each row whose runs are all done, in every table (data set and protocol) of the given rows."""
    from _comparisons import Finished, with_comparisons
    from _feature_results import with_groups
    from _results import gather, over_runs, write

    for dataset, protocol in sorted({(row.dataset, row.protocol) for row in rows}):
        done: dict[str, Finished] = {}
        of_rows: dict[str, list[Run]] = {}
        for row in selected(dataset, protocol):
            runs = [Run(row, seed, root, extra) for seed in row.seeds if seed in seeds]
            if runs and all(run.state() == "done" for run in runs):
                judgements = over_runs(runs)
                done[row.model] = Finished(row, gather(row, runs, judgements), judgements)
                of_rows[row.model] = runs
        contents = with_comparisons(done)
        if contents and dataset in FEATURE_DATASETS:
            contents = with_groups(contents, of_rows)
        for content in contents:
            say(f"wrote {write(content, results).relative_to(ROOT)}")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--dataset", default="*", help="glob")
    made.add_argument("--protocol", default="*", help="glob")
    made.add_argument("--model", default="*", help="glob")
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run these only; a JSON is written for them")
    made.add_argument("--workers", type=int, default=2, help="processes at a time, of one thread each")
    made.add_argument("--list", action="store_true", help="show the runs and their states, and do nothing")
    made.add_argument("--gather", action="store_true", help="write the JSONs of what is done, and run nothing")
    made.add_argument("--again", action="store_true", help="repeat runs that were made with other settings")
    made.add_argument("--smoke", action="store_true", help="one epoch, one seed, into runs/smoke: does everything run?")
    return made


if __name__ == "__main__":
    sys.exit(main())
