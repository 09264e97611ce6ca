"""What gates look at: a challenger, the champion that it would replace, and the requests that both answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from recsys.evaluation.evaluation_set import EvaluationSet
    from recsys.evaluation.result import Evaluation


@dataclass(frozen=True)
class Contestant:
    """A model in a promotion.

    Attributes:
        name: to print.
        load: gives what answers requests: an MLflow model, or a callable of the same contract.
        uri: of the MLflow model, by version and never by alias; None for one that is made on the fly.
        version: in the registry; None for one that is not registered.
        run_id: of the MLflow run that made it.
        registered_with: fingerprint of the evaluation set that it was registered with; None where nothing says.
    """

    name: str
    load: Callable[[], Any]
    uri: str | None = None
    version: str | None = None
    run_id: str | None = None
    registered_with: str | None = None


Judge = Callable[[Contestant, "str | None"], "Evaluation"]
"""Judges a contestant in a task of the evaluation set."""


class Pair(NamedTuple):
    """Champion and challenger on the same requests.

    Attributes:
        task: of the requests; None: the set has one kind.
        champion: its evaluation.
        challenger: its evaluation.
    """

    task: str | None
    champion: Evaluation
    challenger: Evaluation

    def named(self, metric: str) -> str:
        """The metric with its task, where there are several kinds of requests."""
        return metric if self.task is None else f"{self.task}/{metric}"


@dataclass
class PromotionCase:
    """A challenger and a champion.

    Attributes:
        challenger: who wants to be the champion.
        champion: who is, or the baseline that stands in where nobody is.
        evaluation_set: the frozen requests.
        judge: judges either on them.
        tracking_uri: of the MLflow store.
        retrieve: items that models retrieve for their ranking; 0: retrieval alone.
        bandit_log: logged recommendations with propensities and rewards; None where there are none.
    """

    challenger: Contestant
    champion: Contestant
    evaluation_set: EvaluationSet
    judge: Judge
    tracking_uri: str
    retrieve: int = 0
    bandit_log: Path | None = None
    _judged: dict[tuple[str, str | None], Evaluation] = field(default_factory=dict, repr=False)

    def evaluation(self, contestant: Contestant, task: str | None) -> Evaluation:
        """How a contestant did in a task; judged once, and kept."""
        key = (contestant.name, task)
        if key not in self._judged:
            self._judged[key] = self.judge(contestant, task)
        return self._judged[key]

    def pairs(self) -> Iterator[Pair]:
        """Both in each task of the evaluation set."""
        for task in self.evaluation_set.tasks:
            yield Pair(task, self.evaluation(self.champion, task), self.evaluation(self.challenger, task))
