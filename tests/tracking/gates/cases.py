"""Cases for gates, made of values alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.given_requests import given_set
from recsys.evaluation.result import Evaluation, TargetTable
from recsys.tracking.gates.case import Contestant, PromotionCase

FINGERPRINT = "f" * 64
Metrics = Mapping[str, Any]


def evaluation(
    metrics: Metrics,
    users: Any = None,
    history: Any = None,
    targets: TargetTable | None = None,
    exposure: Mapping[str, float] | None = None,
    **facts: Any,
) -> Evaluation:
    """An evaluation with these values per row."""
    rows = len(next(iter(metrics.values())))
    nothing = np.zeros(0, dtype=np.int64)
    return Evaluation(
        model="toy",
        users=np.arange(rows) if users is None else np.asarray(users),
        history_length=np.zeros(rows, np.int32) if history is None else np.asarray(history, np.int32),
        ranked=np.zeros((rows, 1), np.int32),
        metrics={name: np.asarray(values) for name, values in metrics.items()},
        exposure=dict(exposure or {}),
        targets=targets or TargetTable(nothing, nothing, nothing, nothing.astype(np.int8)),
        facts={"evaluation_set": FINGERPRINT, "judged_users": rows} | facts,
    )


def case(champion: Any, challenger: Any, *, registered_with: str | None = FINGERPRINT, **more: Any) -> PromotionCase:
    """A case of evaluations by task, or of one evaluation each."""
    both = {
        name: found if isinstance(found, dict) else {None: found}
        for name, found in (("champion", champion), ("challenger", challenger))
    }
    evaluation_set: Any = SimpleNamespace(fingerprint=FINGERPRINT, tasks=tuple(both["champion"]))
    return PromotionCase(
        challenger=Contestant("challenger", lambda: None, registered_with=registered_with),
        champion=Contestant("champion", lambda: None),
        evaluation_set=evaluation_set,
        judge=lambda contestant, task: both[contestant.name][task],
        tracking_uri="sqlite:///nowhere.db",
        **more,
    )


def of_values(champion: Any, challenger: Any, metric: str = "NDCG@10", **more: Any) -> PromotionCase:
    """A case of one metric."""
    return case(evaluation({metric: champion}, **more), evaluation({metric: challenger}, **more))


def frozen(requests: int = 60) -> EvaluationSet:
    """A small evaluation set of a shop."""
    random = np.random.default_rng(0)
    names = np.array([f"item {number}" for number in range(30)])
    asked = pd.DataFrame(
        {
            "user_id": [f"u{number}" for number in range(requests)],
            "history": [random.choice(names, 3, replace=False) for _ in range(requests)],
            "relevant": [random.choice(names, 1) for _ in range(requests)],
        }
    )
    return given_set(asked, pd.DataFrame({"item_id": names, "training_events": np.arange(30)[::-1]}))


def two_seeds(random: np.random.Generator, users: int, hit_rate: float = 0.1, agree: float = 0.6) -> tuple[Any, Any]:
    """NDCG of two trainings of one model, `[users]` each: exchangeable, mostly zero, and alike for most users.

    Users differ in how easy they are (a beta law with mean `hit_rate`); for a share `agree` of them both trainings make
    the same list.
    """
    ease = random.beta(0.5, 0.5 * (1 - hit_rate) / hit_rate, users)

    def once() -> Any:
        return np.where(random.random(users) < ease, 1 / np.log2(random.integers(2, 12, users)), 0.0)

    common, same = once(), random.random(users) < agree
    return np.where(same, common, once()), np.where(same, common, once())
