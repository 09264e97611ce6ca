"""The baselines that stand beside every model, and the choice of their settings on the validation users."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.tasks import Task, tasks_of
from recsys.features.splits import Split
from recsys.models.als import ALS
from recsys.models.bpr import BPR
from recsys.models.item_item import BM25, TFIDF, Cosine
from recsys.models.lexical import LexicalBM25
from recsys.models.popularity import DecayedPopularity, Popularity, RecentPopularity
from recsys.models.recommender import FittedRecommender


def baselines(split: Split | None = None, seed: int = 0) -> list[FittedRecommender]:
    """The declared grid: every setting of every baseline that is tried, none of them fitted.

    Args:
        split: what they will be fitted to: where queries share words with items, word matching is one of them. None:
            the grid of a log without queries.
        seed: of the models that draw numbers.
    """
    models: list[FittedRecommender] = [Popularity()]
    models += [RecentPopularity(days) for days in (7, 30, 90, 365)]
    models += [DecayedPopularity(days) for days in (7, 30, 90, 365)]
    models += [ALS(factors, alpha=alpha, seed=seed) for factors, alpha in product((64, 128), (1, 5, 20))]
    models += [
        BPR(learning_rate=rate, iterations=passes, seed=seed) for rate, passes in product((0.01, 0.05), (100, 300))
    ]
    models += [BM25(neighbours, b=b) for neighbours, b in product((20, 100, 200), (0.2, 0.75))]
    models += [similarity(neighbours) for similarity, neighbours in product((Cosine, TFIDF), (20, 100, 200))]
    if split is not None and (shared := split.log.schema.shared_words()) and all(shared.values()):
        models += [LexicalBM25(b=b, prior=prior) for b, prior in product((0.2, 0.75), (0.0, 0.1, 0.3, 1.0))]
    return models


@dataclass
class Choice:
    """The best setting of one class of models.

    Attributes:
        model: fitted to the split's training events.
        value: its metric on the validation users; None where there was one setting and nothing to choose.
        seconds: of its fit.
        tried: every setting with its metric and the seconds of its fit.
    """

    model: FittedRecommender
    value: float | None
    seconds: float
    tried: list[dict[str, Any]] = field(default_factory=list)


def select(candidates: Iterable[FittedRecommender], split: Split, metric: str = "NDCG@10") -> dict[str, Choice]:
    """Fits every candidate and keeps, of each class, the one with the highest metric on the validation users.

    Test users play no part. Word matching is judged by the searches of the validation users, every other model by
    whatever they took next. A class with a single candidate is fitted and taken as it is; ties keep the earlier one.

    Args:
        candidates: models to fit, of any classes, in any order; several of one class are settings to choose from.
        split: training events fit the models, validation users choose among them.
        metric: such as `NDCG@10`.

    Returns:
        Class name -> choice, in the order in which the classes first occur.

    Raises:
        ValueError: a class has several candidates and the split no validation users, or the metric is unknown.
    """
    groups: dict[str, list[FittedRecommender]] = {}
    for model in candidates:
        groups.setdefault(type(model).__name__, []).append(model)
    return {name: _best(name, models, split, metric) for name, models in groups.items()}


def _best(name: str, models: list[FittedRecommender], split: Split, metric: str) -> Choice:
    if len(models) > 1 and not len(split.validation):
        raise ValueError(
            f"{name} has {len(models)} settings, and split `{split.rule}` has no validation users to choose by; "
            "choose on a split that validates, then fit the choice to this one"
        )
    best: Choice | None = None
    tried = []
    for model in models:
        started = time.perf_counter()
        model.fit(split)
        seconds = time.perf_counter() - started
        value = _validate(model, split, metric) if len(models) > 1 else None
        tried.append({"config": model.config(), "value": value, "seconds": seconds})
        # A grid holds one fitted model of a class at a time, the best so far.
        if best is None or (value is not None and best.value is not None and value > best.value):
            if best is not None:
                best.model.tensors = {}
            best = Choice(model, value, seconds)
        else:
            model.tensors = {}
    assert best is not None
    best.tried = tried
    return best


def _validate(model: FittedRecommender, split: Split, metric: str) -> float:
    name, _, k = metric.partition("@")
    if not (name and k.isdigit()):
        raise ValueError(f"metric `{metric}`: a name and a list length are wanted, such as NDCG@10")
    searches = isinstance(model, LexicalBM25) and "search" in tasks_of(split, "validation")
    task: Task | None = "search" if searches else None
    means = evaluate(model, split, which="validation", task=task, ks=(int(k),), top=int(k)).means()
    if metric not in means:
        raise ValueError(f"metric `{metric}` is unknown; there are {', '.join(sorted(means))}")
    return means[metric]
