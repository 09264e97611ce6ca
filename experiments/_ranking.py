"""How well a finished run orders one item to be found among drawn ones; `_runs.py` starts it after the training.

What is there is left alone, so that it may be interrupted and started again at any time.

    python experiments/_ranking.py --folder runs/study/search_beauty/leave_last_out_strict/synergen/0
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.cli.allocator import keep_freed_memory

if TYPE_CHECKING:
    from recsys.evaluation.tasks import Task
    from recsys.features.splits import Split
    from recsys.models.recommender import Recommender

NEGATIVES = (99, 999)
USERS = 2_000
"""Judged in each task, the same for every model: a network encodes each candidate for itself."""
SEED = 0
"""Of the users, and of the drawing of candidates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of a finished run")
    parser.add_argument("--tasks", nargs="*", default=(), help="judge these only")
    arguments = parser.parse_args()
    keep_freed_memory()
    rank_saved(arguments.folder, arguments.tasks)


def rank_saved(folder: Path, tasks: Sequence[str] = ()) -> None:
    """Judges the saved model of a run."""
    from recsys.tracking.bundle import Bundle
    from recsys.tracking.run_folder import RunFolder

    run = RunFolder(folder)
    bundle, split, name = Bundle.load(run.model), run.split(run.log()), run.record.model
    rank(bundle.model, split, wanted(folder, name, tasks), name, bundle.max_length)


def rank(
    model: Recommender,
    split: Split,
    places: dict[tuple[Task, int], Path],
    name: str,
    max_length: int | None = None,
) -> None:
    """Saves the evaluations that are not there yet.

    Args:
        model: a fitted or trained model.
        split: that it was trained on.
        places: task and number of drawn items -> folder of the evaluation.
        name: of the model.
        max_length: events of a history that the model reads.
    """
    from recsys.evaluation.candidates import rank_candidates

    for (task, negatives), place in places.items():
        if place.exists():
            continue
        found = rank_candidates(
            model,
            with_some_users(split, task),
            task=task,
            negatives=negatives,
            seed=SEED,
            max_length=max_length,
            name=name,
        )
        found.save(place)
        values = ", ".join(f"{metric} {value:.4f}" for metric, value in found.means().items())
        print(f"{task}, {negatives} drawn: {values} ({found.facts['seconds']:.0f} s)", flush=True)


def with_some_users(split: Split, task: Task) -> Split:
    """The split with at most `USERS` of the test users who have a request of a task."""
    import numpy as np

    from recsys.evaluation.tasks import requests

    users = np.unique(requests(split, "test", task).users)
    if len(users) > USERS:
        users = np.random.default_rng(SEED).choice(users, USERS, replace=False)
    return replace(split, test=split.test.where(np.isin(split.test.users, users)))


def wanted(folder: Path, model: str, tasks: Sequence[str] = ()) -> dict[tuple[Task, int], Path]:
    """Where the evaluations of a run with candidates belong, by task and number of drawn items.

    They lie beside `evaluation/`, which holds lists of the whole catalogue alone.

    Args:
        folder: of the run; it says which tasks were judged.
        model: name of its model.
        tasks: those to judge; none: all.
    """
    judged = sorted(place.name.removeprefix(f"{model}.") for place in (folder / "evaluation").glob(f"{model}.*"))
    return {
        (task, negatives): folder / "candidates" / f"{model}.{task}.candidates_{negatives}"
        for task in judged
        if not tasks or task in tasks
        for negatives in NEGATIVES
    }


def is_done(folder: Path, tasks: Sequence[str] = ()) -> bool:
    """Whether every evaluation with candidates is there."""
    model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["model"]
    return all(place.exists() for place in wanted(folder, model, tasks).values())


if __name__ == "__main__":
    main()
