"""From finished runs to the JSON of a row."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _ranking import wanted
from _row import Row
from _runs import Run
from _slices import by_activity, of_cold_items
from numpy.typing import NDArray

from recsys.evaluation.intervals import over_seeds
from recsys.evaluation.result import Evaluation
from recsys.tracking.run_folder import RunFolder


@dataclass(frozen=True)
class Judgement:
    """What is kept of an evaluation.

    Attributes:
        users: `[U]` int64, the user of each request.
        history_length: `[U]` events before each request.
        cold: `[U]` bool, requests for items without training events alone.
        metrics: values per request, `[U]` float32 each.
        means: of every metric, those of all lists included.
        facts: of the evaluation.
    """

    users: NDArray[np.int64]
    history_length: NDArray[np.integer]
    cold: NDArray[np.bool_]
    metrics: dict[str, NDArray[np.float32]]
    means: dict[str, float]
    facts: dict[str, Any]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Judgement:
        """Without the lists. The label of a judgement says that candidates were drawn; its metrics need not."""
        return cls(
            evaluation.users,
            evaluation.history_length,
            np.bincount(evaluation.targets.row[evaluation.targets.decile > 0], minlength=len(evaluation.users)) == 0,
            {name.removeprefix("Sampled "): values for name, values in evaluation.metrics.items()},
            {name.removeprefix("Sampled "): value for name, value in evaluation.means().items()},
            evaluation.facts,
        )

    @property
    def label(self) -> str:
        """Of what was judged: the task, if the log has several, and what was done beyond retrieval.

        Such as `search`, `search/ranked` for what the ranking made of the retrieved, and `search/candidates_99` for one
        item to be found among 99 drawn ones; nothing for whatever a user took next.
        """
        stage = None
        if self.facts.get("negatives") is not None:
            stage = f"candidates_{self.facts['negatives']}"
        elif self.facts.get("rerank") is not None:
            stage = "ranked"
        return "/".join(filter(None, (self.facts.get("task"), stage)))


def judged(run: Run) -> dict[str, Judgement]:
    """How a run's own model was judged, by label, in the tasks that the row is made for."""
    folder = RunFolder(run.folder)
    name = folder.record.model
    found = [evaluation for evaluation in folder.evaluations() if evaluation.model in (name, f"{name}-ranked")]
    found += [Evaluation.load(place) for place in wanted(folder.path, name).values() if place.exists()]
    kept = (Judgement.of(e) for e in found if not run.row.tasks or e.facts["task"] in run.row.tasks)
    return dict(sorted((judgement.label, judgement) for judgement in kept))


def over_runs(runs: Sequence[Run]) -> dict[str, list[Judgement]]:
    """The judgements of a row by label, one for each run.

    Raises:
        ValueError: the runs were not judged alike.
    """
    of_runs = [judged(run) for run in runs]
    for run, labels in zip(runs, of_runs, strict=True):
        if labels.keys() != of_runs[0].keys():
            raise ValueError(
                f"{run.name} was judged as {', '.join(labels)}, and {runs[0].name} as {', '.join(of_runs[0])}; "
                "repeat the older of them with `--again`"
            )
    return {label: [labels[label] for labels in of_runs] for label in of_runs[0]}


def gather(row: Row, runs: Sequence[Run], judgements: dict[str, list[Judgement]]) -> dict[str, Any]:
    """The content of the JSON of a row whose runs are finished.

    Args:
        row: the row.
        runs: one for each seed.
        judgements: what `over_runs` gives for them.
    """
    records = [RunFolder(run.folder).record for run in runs]
    metrics = {
        f"{label}/{name}" if label else name: spread([judgement.means[name] for judgement in of_label])
        for label, of_label in judgements.items()
        for name in of_label[0].means
    }
    retrieved = {label: of_label for label, of_label in judgements.items() if label and "/" not in label}
    activity = {label: by_activity(of_label) for label, of_label in retrieved.items()}
    cold = {label: found for label, of_label in retrieved.items() if (found := of_cold_items(of_label))}
    requests = {label: of_label[0].facts["judged_requests"] for label, of_label in judgements.items() if label}
    return {
        "dataset": row.dataset,
        "protocol": row.protocol,
        "model": row.model,
        "metrics": metrics,
        **({"requests": requests} if requests else {}),
        **({"activity": activity} if activity else {}),
        **({"cold": cold} if cold else {}),
        "seeds": [run.seed for run in runs],
        "baselines_run": [],
        **provenance([record.usage | {"git": record.git} for record in records]),
        "versions": records[-1].versions,
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


def spread(values: list[float]) -> dict[str, Any]:
    """Values over the seeds with mean and standard deviation, as they stand in a JSON."""
    found = over_seeds(values)
    return {"mean": found.mean, "sd": None if math.isnan(found.sd) else found.sd, "values": list(found.values)}


def provenance(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean time, largest memory and the revisions of runs, of which each has `wall_s`, `peak_rss_mib` and `git`."""
    sources = [run["git"] for run in runs if run["git"]]
    return {
        "wall_s": round(sum(run["wall_s"] for run in runs) / len(runs), 1),
        "peak_rss_mib": max(run["peak_rss_mib"] for run in runs),
        "git": {
            "revisions": sorted({source["revision"] for source in sources}),
            "dirty": any(source["dirty"] for source in sources),
        },
    }


def write(content: dict[str, Any], results: Path) -> Path:
    """Writes `<dataset>/<protocol>/<model>.json`."""
    path = results / content["dataset"] / content["protocol"] / f"{content['model']}.json"
    return write_json(path, content, indent=2, allow_nan=False)


def write_json(path: Path, content: dict[str, Any], **form: Any) -> Path:
    """Writes a file that is complete or not there; `form` are arguments of `json.dumps`."""
    return write_text(path, json.dumps(content, **form) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Writes under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
    return path
