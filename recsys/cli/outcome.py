"""What follows a training run: the model folder, the judgement beside baselines, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from recsys.cli.calibration import Calibration
from recsys.evaluation import plots
from recsys.evaluation.baselines import Choice, baselines, select
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.report import by_rules
from recsys.evaluation.result import Evaluation
from recsys.evaluation.slices import recall_by_decile
from recsys.evaluation.tasks import tasks_of
from recsys.models.network import SequenceNetwork
from recsys.training.data import EventLogData
from recsys.training.job import Job
from recsys.training.module import RecommenderModule

RETRIEVED = 200
"""Items that a network retrieves for its ranking to order."""
LINES = 2
"""Baselines drawn in recall by popularity, beside popularity itself."""


def best_network(module: RecommenderModule, folder: Path) -> SequenceNetwork:
    """The network with the weights that validated best; without validation, with the last ones."""
    found = folder / "checkpoints" / "best.ckpt"
    if found.exists():
        module.load_state_dict(torch.load(found, map_location="cpu", weights_only=True)["state_dict"])
    assert module.network is not None
    return module.network.cpu().eval()


def chosen_baselines(data: EventLogData, job: Job) -> dict[str, Choice]:
    """The baselines of a job by name, each in its best setting."""
    return select(baselines(data.split, data.seed) if job.baselines is None else job.baselines, data.split, job.metric)


def judge(
    network: SequenceNetwork, chosen: Mapping[str, Choice], data: EventLogData, job: Job, name: str
) -> list[Evaluation]:
    """The network, called `name`, and the baselines on the test users, task by task, the network first.

    A network that ranks is judged twice: by the order of retrieval, and as `<name>-ranked` by what its ranking makes of
    the best that were retrieved.
    """
    judged = []
    for task in tasks_of(data.split):
        settings = partial(evaluate, split=data.split, task=task, ks=job.ks, filter_seen=job.filter_seen)
        judged.append(settings(network, max_length=data.max_length, name=name))
        if network.ranks:
            ranked = f"{name}-ranked"
            judged.append(settings(network, max_length=data.max_length, name=ranked, rerank=RETRIEVED))
        judged += [settings(choice.model, name=baseline) for baseline, choice in chosen.items()]
    return judged


def pictures(
    evaluations: Sequence[Evaluation],
    curves: pd.DataFrame,
    metric: str,
    k: int,
    calibration: Calibration | None = None,
) -> dict[str, Figure]:
    """The figures of a run by file name.

    Args:
        evaluations: of the models, the trained one first; those of the first task are drawn.
        curves: validation metrics by epoch.
        metric: the metric by which the run was chosen.
        k: length of the list that recall by popularity looks at.
        calibration: of a network that ranks.
    """
    main, *others = by_rules(evaluations)[0]
    # More lines than these nobody can tell apart: the model, the best baselines, and the most popular items.
    best = sorted(others, key=lambda e: -e.means()[metric])[:LINES]
    floor = [e for e in others if e.model == "Popularity" and e not in best]
    made = {
        "scores.png": plots.scores({e.model: e.summary()[metric] for e in evaluations}, metric, highlight=[main.model]),
        "recall_by_popularity.png": plots.recall_by_popularity(
            {e.model: recall_by_decile(e, k) for e in (main, *best, *floor)}, k
        ),
    }
    if len(curves):
        series = curves.set_index("epoch")[metric]
        made["learning_curves.png"] = plots.learning_curves({main.model: series}, f"{metric} on validation users")
    if calibration is not None:
        made["calibration.png"] = plots.reliability(calibration.tables)
    return made


def draw(figures: dict[str, Figure], folder: Path) -> None:
    """Writes figures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
