"""Prints the results of a finished run, makes them again, or compares two runs.

`recsys evaluate RUN` prints the table of the run's models with intervals; `--recompute` first ranks again with the
saved model and data, and replaces the model's evaluation and its card. `recsys evaluate --compare RUN_A RUN_B` is a
paired bootstrap of B - A over the same users; to compare with a baseline, name its evaluation:
`RUN/evaluation/Popularity`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser
from rich.console import Console

from recsys.evaluation.report import by_rules, comparison_table, protocol, results_table
from recsys.evaluation.result import Evaluation, compare_evaluations
from recsys.tracking.model_card import leave_card
from recsys.tracking.record import RUN, RunError
from recsys.tracking.run_folder import RunFolder

_KINDS = ("HR", "NDCG", "Coverage")
_KEPT = ("task", "ks", "max_length", "filter_seen", "cold_targets", "rerank", "top", "tie_seed", "beta")
"""Facts of an evaluation by which it is made again."""


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser("recsys evaluate", description=__doc__, default_env=True, env_prefix="RECSYS_EVALUATE")
    arguments.add_argument("--config", action="config", help="YAML file with these arguments")
    arguments.add_argument("run", type=str | None, nargs="?", help="folder of a run")
    arguments.add_argument("--compare", type=str, nargs=2, metavar=("RUN_A", "RUN_B"), help="two runs or evaluations")
    arguments.add_argument("--metrics", type=str, nargs="+", help="columns or rows of the table, such as NDCG@10")
    arguments.add_argument("--recompute", action="store_true", help="rank again")
    arguments.add_argument("--log", type=str | None, help="the prepared log, if it is not where the run had it")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; None reads the command line.

    Returns:
        The exit code.

    Raises:
        RunError: a folder holds no run, or not what is needed; the message says what to do.
        EvaluationError: the evaluations cannot be read or compared.
    """
    arguments = parser()
    given = arguments.parse_args(argv)
    if (given.run is None) == (given.compare is None):
        arguments.error("name one run, or two after --compare")
    if given.compare is not None:
        if given.recompute:
            arguments.error("--recompute takes one run; recompute both, then compare them")
        first, second = given.compare
        print_comparison(first, second, given.metrics, given.json)
        return 0
    run = RunFolder(Path(given.run))
    if given.recompute:
        recompute(run, given.log)
    print_results(run.evaluations(), given.metrics, given.json)
    return 0


def print_results(evaluations: Sequence[Evaluation], metrics: Sequence[str] | None, as_json: bool) -> None:
    """Prints a table for each task, or a JSON list with every metric of every model."""
    if not as_json:
        console = Console()
        for comparable in by_rules(evaluations):
            console.print(results_table(comparable, metrics or default_metrics(comparable[0])))
        return
    found = []
    for evaluation in evaluations:
        intervals = evaluation.summary() if evaluation.facts["judged_users"] else {}
        values: dict[str, dict[str, Any]] = {n: {"mean": v} for n, v in evaluation.means().items()}
        values |= {name: asdict(interval) for name, interval in intervals.items()}
        wanted = {name: values[name] for name in metrics or values if name in values}
        found.append({"model": evaluation.model, "facts": evaluation.facts, "metrics": wanted})
    print(json.dumps(without_nan(found), indent=2, allow_nan=False))


def default_metrics(evaluation: Evaluation) -> list[str]:
    """The columns of the table where none are asked for: three kinds at the shortest list length."""
    return [f"{kind}@{min(evaluation.facts['ks'])}" for kind in _KINDS]


def recompute(run: RunFolder, log: str | None) -> None:
    """Ranks again with the saved model, in the way of each of its saved evaluations, and replaces them.

    Raises:
        RunError: model or log are not there, or are not those of the run.
    """
    from recsys.evaluation.evaluate import evaluate
    from recsys.evaluation.tasks import tasks_of
    from recsys.tracking.bundle import Bundle

    name = run.record.model
    if not run.model.is_dir():
        raise RunError(
            f"{run.path}: no saved model (the run is {run.record.status}); continue it with `recsys fit` and "
            "`--job.resume true`"
        )
    bundle = Bundle.load(run.model)
    split = run.split(run.log(log))
    if bundle.split_hash != split.hash:
        raise RunError(f"{run.model}: trained on another split than the run's; copy the folder of the run again")
    own = (name, f"{name}-ranked")
    before = [e for e in run.evaluations(of_any=True) if e.model in own]
    console = Console(stderr=True)
    for old in before:
        settings = {key: old.facts[key] for key in _KEPT if key in old.facts} | {"which": old.facts["part"]}
        after = evaluate(bundle.model, split, name=old.model, **settings)
        run.save_evaluation(after)
        console.print(difference(old, after))
    for task in () if before else tasks_of(split):
        run.save_evaluation(evaluate(bundle.model, split, task=task, name=name, max_length=bundle.max_length))
        console.print("recomputed")
    leave_card(run)


def difference(before: Evaluation, after: Evaluation) -> str:
    """One sentence on how far two evaluations of one model lie apart."""
    changed = (before.ranked != after.ranked).any(axis=1).mean()
    if not changed:
        return "recomputed: every list is the same as before"
    apart = {name: after.metrics[name] - values for name, values in before.metrics.items()}
    name, largest = max(((n, abs(float(np.nanmean(values)))) for n, values in apart.items()), key=lambda pair: pair[1])
    return f"recomputed: {changed:.2%} of the lists differ; {name} moved most, by {largest:.2g}"


def find_evaluation(folder: str) -> Evaluation:
    """The evaluation of a run's trained model, or the one that stands in the folder itself.

    Raises:
        RunError: the folder is neither, or the run has no evaluation.
    """
    path = Path(folder)
    return RunFolder(path).evaluations()[0] if (path / RUN).is_file() else Evaluation.load(path)


def print_comparison(first: str, second: str, metrics: Sequence[str] | None, as_json: bool) -> None:
    """Prints the paired comparison of two runs.

    Raises:
        RunError: they were made on different splits, or lack a metric.
        EvaluationError: they judge in different ways.
    """
    a, b = find_evaluation(first), find_evaluation(second)
    if a.facts["split_hash"] != b.facts["split_hash"]:
        raise RunError(
            f"{first} and {second} were judged on different splits ({a.facts['rule']} {a.facts['split_hash'][:12]} and "
            f"{b.facts['rule']} {b.facts['split_hash'][:12]}): users and targets are not the same, so nothing can be "
            "paired; train both on the same data with the same split rule"
        )
    found = compare_evaluations(a, b)
    missing = [name for name in metrics or () if name not in found]
    if missing:
        raise RunError(f"no {', '.join(missing)} in both runs; there are {', '.join(found)}")
    usual = [f"{kind}@{min(a.facts['ks'])}" for kind in ("HR", "Recall", "NDCG", "MRR")]
    shown = {name: found[name] for name in metrics or (found if as_json else usual)}
    if as_json:
        values = {name: asdict(comparison) for name, comparison in shown.items()}
        print(json.dumps({"first": first, "second": second, "metrics": values}, indent=2, allow_nan=False))
        return
    runs = Path(first).resolve().name, Path(second).resolve().name
    names = next((pair for pair in ((a.model, b.model), runs) if pair[0] != pair[1]), (first, second))
    console = Console()
    console.print(comparison_table(*names, shown))
    console.print(protocol(a), style="dim")


def without_nan(value: Any) -> Any:
    """A copy of JSON-like data in which NaN, which JSON does not know, is null."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
