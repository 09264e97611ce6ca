"""Finished rows of toy studies: on a log without queries, and on one with them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _comparisons import Finished, with_comparisons
from _ranking import wanted
from _results import gather, over_runs
from _row import STRICT, Row
from _runs import Run

from recsys.evaluation.candidates import rank_candidates
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation
from recsys.features.event_log import EventLog
from recsys.features.schema import EventColumns, Feature, Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.als import ALS
from recsys.models.popularity import Popularity
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.usage import Work
from tests.evaluation.conftest import Personal


@dataclass(frozen=True)
class Toy:
    """A finished row.

    Attributes:
        runs: one for each seed.
        evaluations: of each run: label -> evaluation.
        finished: as the study gathers it.
    """

    runs: list[Run]
    evaluations: list[dict[str, Evaluation]]
    finished: Finished

    @property
    def content(self) -> dict[str, Any]:
        return self.finished.content


def finished(row: Row, root: Path, split: Split, judge: Callable[[int], dict[str, Evaluation]]) -> Toy:
    """Runs of every seed of a row, as they lie when they are done; `judge` gives the evaluations of a seed."""
    runs, judged = [Run(row, seed, root) for seed in row.seeds], []
    for run in runs:
        judged.append(judge(run.seed))
        name = next(iter(judged[-1].values())).model
        record = RunRecord.of("toy", name, {"init_args": {}}, split, LeaveLastOut(), root, {"model": run.seed})
        record.measure(Work())
        record.status = "finished"
        record.write(run.folder)
        lists = [e for label, e in judged[-1].items() if "candidates" not in label]
        for evaluation in lists:
            RunFolder(run.folder).save_evaluation(evaluation)
        for (task, negatives), place in wanted(run.folder, name).items():
            if (found := judged[-1].get(f"{task}/candidates_{negatives}")) is not None:
                found.save(place)
    judgements = over_runs(runs)
    return Toy(runs, judged, Finished(row, gather(row, runs, judgements), judgements))


def compared(toys: dict[str, Toy]) -> dict[str, dict[str, Any]]:
    """The JSONs of a table by model."""
    contents = with_comparisons({name: toy.finished for name, toy in toys.items()})
    return {content["model"]: content for content in contents}


def split_of(frame: pd.DataFrame, schema: Schema) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LeaveLastOut()(EventLog.from_frame(frame, schema))


def plain_rows(root: Path) -> dict[str, Toy]:
    """Three seeds of a model and one of a baseline, on a log without queries."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(40), 6), "item_id": random.integers(0, 150, 240), "timestamp": np.arange(240)}
    )
    split = split_of(frame, Schema(name="toy"))

    def fitted(model: ALS | Popularity) -> dict[str, Evaluation]:
        model.fit(split)
        return {"": evaluate(model, split)}

    return {
        "net": finished(Row("toy", STRICT, "net"), root, split, lambda seed: fitted(ALS(4, seed=seed))),
        "popularity": finished(
            Row("toy", STRICT, "popularity", seeds=(0,)), root, split, lambda seed: fitted(Popularity())
        ),
    }


def split_with_queries() -> Split:
    """120 users with ten purchases each, every item bought once, half of the purchases answers to one of four words."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(120), 10), "item_id": random.permutation(1200), "timestamp": np.arange(1200)}
    )
    asked = random.choice(["red", "green", "blue", "white"], len(frame))
    frame["query"] = np.where(random.random(len(frame)) < 0.5, asked, None)
    words = Feature(name="words", type="text", entity="query")
    return split_of(frame, Schema(name="searches", events=EventColumns(query="query"), features=(words,)))


def knowing(split: Split, seed: int, retrieval: float, ranking: float) -> Personal:
    """A model of random scores that knows the test items the better, the larger the two numbers."""
    model = Personal(split.log)
    model.table.copy_(torch.rand(model.table.shape, generator=torch.Generator().manual_seed(seed)))
    target = split.log.item_id[split.test.targets()].astype(np.int64)
    for stage, bonus in enumerate((retrieval, ranking)):
        model.table[stage, :, split.test.users, target] += bonus
    return model


def search_rows(root: Path, split: Split) -> dict[str, Toy]:
    """On a log with queries: a model for both tasks, one that only searches, and two baselines."""

    def judge(tasks: Sequence[str], retrieval: float, ranking: float | None, name: str, seed: int):
        model, found = knowing(split, seed, retrieval, ranking or 0.0), {}
        for task in tasks:
            found[task] = evaluate(model, split, task=task, name=name)
            if ranking is not None:
                found[f"{task}/ranked"] = evaluate(model, split, task=task, rerank=200, name=f"{name}-ranked")
            for n in (99, 999):
                found[f"{task}/candidates_{n}"] = rank_candidates(model, split, task=task, negatives=n, name=name)
        return found

    both = ("search", "recommendation")
    rows = {
        Row("search_beauty", STRICT, "synergen", against=("query_only", "not_there")): (0.5, 0.8, "SynerGen"),
        # Judged in both tasks, as every run is, and made for one.
        Row("search_beauty", STRICT, "query_only", tasks=("search",), note="no person"): (0.3, 0.3, "QueryOnly"),
        Row("search_beauty", STRICT, "popularity", seeds=(0,)): (0.2, None, "Popularity"),
        Row("search_beauty", STRICT, "lexical_bm25", seeds=(0,)): (0.35, None, "LexicalBM25"),
    }
    return {
        row.model: finished(row, root, split, lambda seed, args=(both, *arguments): judge(*args, seed))
        for row, arguments in rows.items()
    }
