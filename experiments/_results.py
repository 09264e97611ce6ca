"""From finished runs to the JSON of a row."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from _rows import BASELINES, Row
from _runs import Run

from recsys.evaluation.intervals import compare, over_seeds
from recsys.evaluation.result import Evaluation
from recsys.tracking.run_folder import RunFolder

COMPARED = ("HR@10", "NDCG@10", "HR@50", "NDCG@50", "MRR@50")
CHOSEN_BY = "NDCG@10"


def gather(row: Row, runs: Sequence[Run]) -> dict[str, Any]:
    """The content of the JSON of a row whose runs are finished; one run for each seed."""
    records = [RunFolder(run.folder).record for run in runs]
    means = [evaluation.means() for evaluation in evaluations(runs)]
    revisions = sorted({record.git["revision"] for record in records if record.git})
    return {
        "dataset": row.dataset,
        "protocol": row.protocol,
        "model": row.model,
        "metrics": {name: _spread([values[name] for values in means]) for name in means[0]},
        "seeds": [run.seed for run in runs],
        "baselines_run": [],
        "wall_s": round(sum(record.usage["wall_s"] for record in records) / len(records), 1),
        "peak_rss_mib": max(record.usage["peak_rss_mib"] for record in records),
        "versions": records[-1].versions,
        "git": {"revisions": revisions, "dirty": any(record.git["dirty"] for record in records if record.git)},
        "command": shlex.join(
            ["python", "experiments/study.py"]
            + [word for key in ("dataset", "protocol", "model") for word in (f"--{key}", getattr(row, key))]
        ),
        "settings": {
            "note": row.note,
            "arguments": records[0].config["init_args"] if row.is_baseline else dict(row.settings),
            "epochs": [run.settings()["trainer.max_epochs"] for run in runs if run.first],
            "machine": records[-1].machine,
        },
    }


def evaluations(runs: Sequence[Run]) -> list[Evaluation]:
    """The evaluation of each run."""
    folders = [RunFolder(run.folder) for run in runs]
    return [Evaluation.load(folder.evaluation(folder.record.model)) for folder in folders]


def _spread(values: list[float]) -> dict[str, Any]:
    spread = over_seeds(values)
    return {"mean": spread.mean, "sd": None if math.isnan(spread.sd) else spread.sd, "values": list(spread.values)}


def beside_baselines(
    content: dict[str, Any], runs: Sequence[Run], baselines: dict[str, tuple[dict[str, Any], Sequence[Run]]]
) -> dict[str, Any]:
    """Adds which baselines stand beside a row, and a paired bootstrap against the strongest of them on the test users.

    Args:
        content: the JSON of the row.
        runs: of the row.
        baselines: JSON and runs of the finished baselines on the same data under the same protocol, by name.
    """
    content = content | {"baselines_run": [name for name in BASELINES if name in baselines]}
    if content["model"] in BASELINES or not baselines:
        return content
    best = max(baselines, key=lambda name: baselines[name][0]["metrics"][CHOSEN_BY]["mean"])
    theirs, ours = _over_seeds(evaluations(baselines[best][1])), _over_seeds(evaluations(runs))
    found = {name: asdict(comparison) for name, comparison in compare(theirs, ours).items()}
    return content | {"comparison": {"with": best, "metrics": found}}


def _over_seeds(of_seeds: Sequence[Evaluation]) -> dict[str, np.ndarray]:
    """`[U]` mean over the seeds of each metric of each user."""
    return {name: np.mean([evaluation.metrics[name] for evaluation in of_seeds], axis=0) for name in COMPARED}


def write(content: dict[str, Any], results: Path) -> Path:
    """Writes `<dataset>/<protocol>/<model>.json` under a temporary name first."""
    path = results / content["dataset"] / content["protocol"] / f"{content['model']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(path)
    return path
