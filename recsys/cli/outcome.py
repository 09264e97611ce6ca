"""What follows a training run: the model folder, the judgement beside baselines, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from recsys.evaluation import plots
from recsys.evaluation.baselines import baselines, select
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation
from recsys.evaluation.slices import recall_by_decile
from recsys.models.network import SequenceNetwork
from recsys.training.data import EventLogData
from recsys.training.job import Job
from recsys.training.module import RecommenderModule

LINES = 2
"""Baselines drawn in recall by popularity, beside popularity itself."""


def best_network(module: RecommenderModule, folder: Path) -> SequenceNetwork:
    """The network with the weights that validated best; without validation, with the last ones."""
    found = folder / "checkpoints" / "best.ckpt"
    if found.exists():
        module.load_state_dict(torch.load(found, map_location="cpu", weights_only=True)["state_dict"])
    assert module.network is not None
    return module.network.cpu().eval()


def judge(network: SequenceNetwork, data: EventLogData, job: Job, name: str) -> list[Evaluation]:
    """The network, called `name`, and the baselines on the test users, the network first."""
    ours = evaluate(network, data.split, ks=job.ks, max_length=data.max_length, filter_seen=job.filter_seen, name=name)
    candidates = baselines(data.seed) if job.baselines is None else job.baselines
    chosen = select(candidates, data.split, job.metric)
    return [ours] + [
        evaluate(choice.model, data.split, ks=job.ks, filter_seen=job.filter_seen, name=baseline)
        for baseline, choice in chosen.items()
    ]


def pictures(evaluations: Sequence[Evaluation], curves: pd.DataFrame, metric: str, k: int) -> dict[str, Figure]:
    """The figures of a run by file name.

    Args:
        evaluations: of the models, the trained one first.
        curves: validation metrics by epoch.
        metric: the metric by which the run was chosen.
        k: length of the list that recall by popularity looks at.
    """
    main, *others = evaluations
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
    return made


def draw(figures: dict[str, Figure], folder: Path) -> None:
    """Writes figures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
