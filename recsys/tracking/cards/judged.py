"""The evaluations of a run as a card shows them: models that were judged alike, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.intervals import Comparison, Interval
from recsys.evaluation.report import by_rules
from recsys.evaluation.result import Evaluation, EvaluationError, compare_evaluations

KINDS = ("HR", "NDCG", "Coverage")
"""Metrics of the first table, at the shortest list length."""
COMPARED = ("HR", "Recall", "NDCG", "MRR")
"""Metrics that are compared with the best baseline. They take few values, and so a bootstrap of any number of users is
quick; debiased ones take as many as there are users."""


@dataclass(frozen=True)
class Judged:
    """One evaluation with what is computed of it, once.

    Attributes:
        evaluation: as it was saved.
    """

    evaluation: Evaluation

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.evaluation.model

    @cached_property
    def means(self) -> dict[str, float]:
        """Every metric."""
        return self.evaluation.means()

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each metric of requests; none where no request could be judged."""
        return self.evaluation.summary() if self.evaluation.facts["judged_users"] else {}


@dataclass(frozen=True)
class Group:
    """Models whose numbers may stand side by side.

    Attributes:
        own: the trained model, and what its ranking makes of its lists.
        baselines: the others, best first.
        k: the shortest list length that all of them have.
        differences: of each of the own ones to the best baseline, paired.
        uncompared: why one of the own ones has none.
    """

    own: tuple[Judged, ...]
    baselines: tuple[Judged, ...]
    k: int
    differences: Mapping[str, Mapping[str, Comparison]]
    uncompared: Mapping[str, str]

    @property
    def all(self) -> tuple[Judged, ...]:
        """The trained model first."""
        return self.own + self.baselines

    @property
    def best(self) -> Judged | None:
        """The best baseline."""
        return self.baselines[0] if self.baselines else None

    @property
    def metric(self) -> str:
        """By which models are put in order."""
        return f"NDCG@{self.k}"

    @property
    def name(self) -> str:
        """Task, and part where it is not the test: `search`, `all requests`."""
        facts = self.all[0].evaluation.facts
        task = facts.get("task") or "all requests"
        return task if facts["part"] == "test" else f"{task} ({facts['part']})"


def groups_of(evaluations: Sequence[Evaluation], model: str) -> list[Group]:
    """The evaluations that rank the whole catalogue, by what they were judged on.

    Metrics among drawn items decide nothing, and are left out.

    Args:
        evaluations: of a run.
        model: name of the trained model.

    Raises:
        EvaluationError: models that were judged on the same have no list length in common.
    """
    whole = [evaluation for evaluation in evaluations if evaluation.facts.get("negatives") is None]
    return [_group([Judged(evaluation) for evaluation in alike], model) for alike in by_rules(whole)]


def _group(judged: Sequence[Judged], model: str) -> Group:
    common = set.intersection(*(set(one.evaluation.facts["ks"]) for one in judged))
    if not common:
        raise EvaluationError(f"no list length in common: {', '.join(one.model for one in judged)}; judge them alike")
    k = min(common)
    names = (model, f"{model}-ranked")
    own = sorted((one for one in judged if one.model in names), key=lambda one: names.index(one.model))
    others = sorted((one for one in judged if one.model not in names), key=lambda one: -one.means[f"NDCG@{k}"])
    differences, uncompared = {}, {}
    for one in own:
        try:
            differences[one.model] = _difference(one, others)
        except EvaluationError as error:
            uncompared[one.model] = str(error)
    return Group(tuple(own), tuple(others), k, differences, uncompared)


def _difference(own: Judged, baselines: Sequence[Judged]) -> dict[str, Comparison]:
    if not baselines:
        raise EvaluationError("there is no baseline to compare with")
    if not own.intervals:
        raise EvaluationError("no request could be judged")
    return compare_evaluations(
        *(replace(one, metrics=_compared(one)) for one in (baselines[0].evaluation, own.evaluation))
    )


def _compared(evaluation: Evaluation) -> dict[str, NDArray[np.float32]]:
    return {name: values for name, values in evaluation.metrics.items() if name.partition("@")[0] in COMPARED}
