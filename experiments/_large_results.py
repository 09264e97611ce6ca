"""From the finished large run to the JSON of its rows: the model, and popularity on the same users."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _large_callbacks import TEST_SEED, sampled
from _large_steps import read, summary
from _results import write

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation, compare_evaluations
from recsys.models.popularity import Popularity
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.job import Job
from recsys.training.sharded_checkpoint import inspect
from recsys.training.usage import peak_rss_mib

COMPARED = ("HR@10", "NDCG@10", "HR@50", "NDCG@50", "MRR@50")


def write_rows(folder: Path, test_users: int, results: Path, facts: dict[str, Any], command: str) -> list[Path]:
    """Judges popularity on the users of the run, and writes a row for each of the two.

    Args:
        folder: of the run.
        test_users: how many users it was judged on.
        results: gets `large_synthetic/<protocol>/<model>.json`.
        facts: of what was done around the run, `ranks` among them.
        command: that did it.
    """
    run = RunFolder(folder)
    record, (ours,) = run.record, run.evaluations()
    split = sampled(run.split(run.log()), test_users)
    started = time.perf_counter()
    popularity = Popularity()
    popularity.fit(split)
    theirs = evaluate(popularity, split, max_length=ours.facts["max_length"], name="Popularity")
    seconds = round(time.perf_counter() - started, 1)
    note = f"{len(ours.users):,} of the test users, drawn by seed {TEST_SEED}"
    compared = compare_evaluations(theirs, ours)
    steps = summary([read(folder, rank) for rank in range(facts["ranks"])])
    tables = [asdict(tensor) | {"mib": round(tensor.mib, 2)} for tensor in inspect(Job.checkpoint(folder))]
    rows = [
        _row(record, ours, "synergen", command, f"{facts['ranks']} processes; {note}", ["popularity"])
        | {
            "wall_s": facts["training_and_judging_s"],
            "peak_rss_mib": max(steps["peak_rss_mib"]["judging"]),
            "comparison": {"with": "popularity", "metrics": {name: asdict(compared[name]) for name in COMPARED}},
            "run": facts | steps | {"judging_s": round(ours.facts["seconds"], 1), "tables": tables},
            "log": record.data["facts"] | record.split["facts"],
        },
        _row(record, theirs, "popularity", command, note, [])
        | {"wall_s": seconds, "peak_rss_mib": round(peak_rss_mib(), 1)},
    ]
    return [write(row, results) for row in rows]


def _row(
    record: RunRecord, evaluation: Evaluation, model: str, command: str, note: str, baselines: list[str]
) -> dict[str, Any]:
    """What `report.py` wants of a row; there is one seed."""
    git = record.git or {"revision": None, "dirty": None}
    return {
        "dataset": record.data["name"],
        "protocol": record.split["rule"],
        "model": model,
        "metrics": {n: {"mean": value, "sd": None, "values": [value]} for n, value in evaluation.means().items()},
        "seeds": [record.seeds["all"]],
        "baselines_run": baselines,
        "versions": record.versions,
        "git": {"revisions": list(filter(None, [git["revision"]])), "dirty": git["dirty"]},
        "command": command,
        "settings": {"note": note, "machine": record.machine},
    }
