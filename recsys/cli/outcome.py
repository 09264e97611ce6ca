"""What follows a training run: the model folder, the judgement beside baselines, tables and pictures."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from recsys.cli.calibration import Calibration, calibrate
from recsys.evaluation import plots
from recsys.evaluation.baselines import Choice, baselines, select
from recsys.evaluation.diagnostics import rank_curves
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.report import by_rules, results_table
from recsys.evaluation.result import Evaluation
from recsys.evaluation.slices import recall_by_decile
from recsys.evaluation.tasks import tasks_of
from recsys.features.feature_correlation import FeatureCorrelation
from recsys.models.artefact import save_model
from recsys.models.lexical import LexicalBM25
from recsys.models.trainable import TrainableNetwork
from recsys.tracking.bundle import Bundle
from recsys.tracking.run_folder import RunFolder
from recsys.training.consolidation import load_weights, whole_network
from recsys.training.data import EventLogData
from recsys.training.job import Job
from recsys.training.module import RecommenderModule

FROZEN_USERS = 20_000
"""Most test users whose requests are frozen with a run, which bounds the size of the set and the time it takes."""
LINES = 2
"""Baselines drawn in recall by popularity, beside popularity itself."""


def best_network(
    module: RecommenderModule, data: EventLogData, folder: Path, sharded: bool = False
) -> TrainableNetwork:
    """The network with the weights that validated best; without validation, with the last ones.

    Args:
        module: that was trained.
        data: that it was trained on.
        folder: of the run.
        sharded: whether its tables are; they are then read from the checkpoint of all ranks.
    """
    best = Job.best(folder)
    if sharded:
        module.network = None
        gc.collect()  # sharded modules hold themselves; this rank's shards make way for the whole tables
        return whole_network(module, data.catalogue, best if best.exists() else Job.checkpoint(folder))
    if best.exists():
        module.load_state_dict(load_weights(best))
    assert module.network is not None
    return module.network.cpu().eval()


def save_bundle(network: TrainableNetwork, data: EventLogData, folder: Path) -> Calibration | None:
    """Writes a network with what serving needs; returns its calibration, which goes with it."""
    calibration = calibrate(network, data.split, data.max_length)
    platt = None if calibration is None else calibration.platt
    Bundle.of(network, data.log, data.split.hash, data.max_length, platt).save(folder)
    return calibration


@dataclass(frozen=True)
class Outcome:
    """What a run has come to.

    Attributes:
        evaluations: of the trained model first, and of its baselines.
        calibration: of a network that ranks.
    """

    evaluations: list[Evaluation]
    calibration: Calibration | None

    def print(self, console: Console, k: int) -> None:
        """Prints a table for each task, with lists of k items, and the calibration."""
        for comparable in by_rules(self.evaluations):
            console.print(results_table(comparable, [f"{name}@{k}" for name in ("HR", "NDCG", "Coverage")]))
        if self.calibration is not None:
            error = self.calibration.error
            console.print(
                f"probabilities of the ranking: expected calibration error {error['before']:.2e} as learned, "
                f"{error['after']:.2e} calibrated (base rate {error['base_rate']:.2e})",
                highlight=False,
            )


def conclude(
    network: TrainableNetwork,
    data: EventLogData,
    job: Job,
    folder: RunFolder,
    name: str,
    history: Sequence[Mapping[str, float]],
    correlation: FeatureCorrelation | None = None,
    diagnostics: Sequence[Mapping[str, float]] = (),
) -> Outcome:
    """Saves the network, called `name`, judges it beside the job's baselines, and leaves all of it in the run folder.

    Args:
        network: that was trained.
        data: that it was trained on.
        job: names the baselines and metrics.
        folder: of the run.
        name: of the model.
        history: validation metrics by epoch.
        correlation: of the item features, where training went by it.
        diagnostics: of the vectors by epoch.
    """
    calibration = save_bundle(network, data, folder.model)
    chosen = chosen_baselines(data, job)
    for choice in chosen.values():
        if isinstance(choice.model, LexicalBM25):
            save_model(choice.model, folder.lexical)
    evaluations = judge(network, chosen, data, job, name)
    for evaluation in evaluations:
        folder.save_evaluation(evaluation)
    # One draw for all runs, whatever their seed: two of them are compared on the same users.
    EvaluationSet.of(data.split, filter_seen=job.filter_seen, users=FROZEN_USERS).save(folder.evaluation_set)
    if calibration is not None:
        folder.save_calibration(calibration.as_json())
    folder.save_history(validation=history, diagnostics=diagnostics)
    drawn = pictures(evaluations, pd.DataFrame(history), job.metric, job.k, calibration, correlation)
    if diagnostics:
        drawn["effective_rank.png"] = plots.effective_ranks(rank_curves(diagnostics))
    draw(drawn, folder.path / "plots")
    return Outcome(evaluations, calibration)


def chosen_baselines(data: EventLogData, job: Job) -> dict[str, Choice]:
    """The baselines of a job by name, each in its best setting."""
    return select(baselines(data.split, data.seed) if job.baselines is None else job.baselines, data.split, job.metric)


def judge(
    network: TrainableNetwork, chosen: Mapping[str, Choice], data: EventLogData, job: Job, name: str
) -> list[Evaluation]:
    """The network, called `name`, and the baselines on the test users, task by task, the network first.

    A network that ranks is judged twice: by the order of retrieval, and as `<name>-ranked` by what its ranking makes of
    the best `job.rerank` that were retrieved.
    """
    judged = []
    for task in tasks_of(data.split):
        settings = partial(evaluate, split=data.split, task=task, ks=job.ks, filter_seen=job.filter_seen)
        judged.append(settings(network, max_length=data.max_length, name=name))
        if network.ranks and job.rerank is not None:
            ranked = f"{name}-ranked"
            judged.append(settings(network, max_length=data.max_length, name=ranked, rerank=job.rerank))
        judged += [settings(choice.model, name=baseline) for baseline, choice in chosen.items()]
    return judged


def pictures(
    evaluations: Sequence[Evaluation],
    curves: pd.DataFrame,
    metric: str,
    k: int,
    calibration: Calibration | None = None,
    correlation: FeatureCorrelation | None = None,
) -> dict[str, Figure]:
    """The figures of a run by file name.

    Args:
        evaluations: of the models, the trained one first; each task has pictures of its own.
        curves: validation metrics by epoch.
        metric: the metric by which the run was chosen.
        k: length of the list that recall by popularity looks at.
        calibration: of a network that ranks.
        correlation: of the item features.
    """
    made: dict[str, Figure] = {}
    for comparable in by_rules(evaluations):
        made |= _pictures_of_task(comparable, metric, k)
    if len(curves):
        by_epoch = curves.set_index("epoch")
        names = [str(name) for name in by_epoch.columns]
        tasks = {name.removesuffix(f"_{metric}"): name for name in names if name.endswith(f"_{metric}")}
        lines = {task: by_epoch[name] for task, name in tasks.items()}
        lines[evaluations[0].model if not tasks else "mean of the tasks"] = by_epoch[metric]
        made["learning_curves.png"] = plots.learning_curves(lines, f"{metric} on validation users")
    if calibration is not None:
        made["calibration.png"] = plots.reliability(calibration.tables)
    if correlation is not None:
        made["feature_information.png"] = plots.feature_information(correlation)
    return made


def _pictures_of_task(evaluations: Sequence[Evaluation], metric: str, k: int) -> dict[str, Figure]:
    """Scores, and recall by popularity, of the models in one task."""
    main, *others = evaluations
    # More lines than these nobody can tell apart: the model, the best baselines, and the most popular items.
    best = sorted(others, key=lambda e: -e.means()[metric])[:LINES]
    floor = [e for e in others if e.model == "Popularity" and e not in best]
    recalls = {e.model: recall_by_decile(e, k) for e in (main, *best, *floor)}
    intervals = {e.model: e.summary()[metric] for e in evaluations}
    task = main.facts["task"]
    suffix, title = ("", None) if task is None else (f"_{task}", f"{metric}, {task}")
    of_recall = None if task is None else f"Recall@{k} by popularity of the item, {task}"
    return {
        f"scores{suffix}.png": plots.scores(intervals, metric, highlight=[main.model], title=title),
        f"recall_by_popularity{suffix}.png": plots.recall_by_popularity(recalls, k, title=of_recall),
    }


def draw(figures: dict[str, Figure], folder: Path) -> None:
    """Writes figures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=150)
