"""The challenger is not worse in anything that was named beforehand."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, GateError, Verdict
from recsys.tracking.gates.paired import Margin, all_numbers, check_level, samples, tested


class NonInferiority(Gate):
    """Passes where it is shown for every named metric and task that the challenger is not worse by the margin or more.

    One-sided paired bootstrap by user. The burden is on the challenger: few users show nothing, and it is refused. Holm
    over metrics and tasks makes each row of the table a claim of its own.

    Source: Piaggio et al., "Reporting of noninferiority and equivalence randomized trials", JAMA 2012.

    Args:
        metrics: of requests.
        tasks: of the evaluation set; None: all.
        level: the chance that a challenger passes that is worse by the margin.
        relative: a loss of this share of the champion's mean is too much.
        absolute: a loss of this is too much; added where both are given.

    Raises:
        GateError: the level makes no sense, or there is no margin.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("NDCG@10", "Recall@50"),
        tasks: Sequence[str] | None = None,
        level: float = 0.05,
        relative: float = 0.0,
        absolute: float = 0.0,
    ) -> None:
        check_level(level)
        self.metrics, self.tasks, self.level = list(metrics), tasks, level
        self.margin = Margin(relative, absolute)
        if not (relative > 0 or absolute > 0):
            raise GateError("non-inferiority needs a margin, `relative` or `absolute`; without one use Superiority")

    def check(self, case: PromotionCase) -> Verdict:
        found = tested(samples(case, self.metrics, self.tasks), self.margin, "not worse", self.level)
        worse = [test for test in found if not test.p <= self.level]
        limit = f"none of {len(found)} worse by {self.margin}, level {self.level:g}, Holm"
        sentence = "not shown: " * bool(worse) + "; ".join(map(str, worse or found))
        return Verdict("NonInferiority", not worse, all_numbers(found), limit, sentence)
