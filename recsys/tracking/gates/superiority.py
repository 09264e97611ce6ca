"""The challenger is better in something that was named beforehand, and not by luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, Verdict
from recsys.tracking.gates.paired import Margin, all_numbers, check_level, samples, tested


class Superiority(Gate):
    """Passes where the challenger is better in one of the named metrics and tasks at least.

    One-sided paired bootstrap by user, Holm over metrics and tasks: a challenger that is better in none passes with a
    chance of `level` at most. `NonInferiority` beside it keeps the other metrics.

    Drawing users answers whether this model is better than that one. Whether its recipe is, and not the luck of a seed,
    needs `seed_sd`: a model that is the champion trained again then passes with a chance of `level` at most, too.

    Args:
        metrics: of requests.
        tasks: of the evaluation set; None: all.
        level: the chance of a false pass.
        relative: better by more than this share of the champion's mean.
        absolute: better by more than this.
        seed_sd: standard deviation over seeds of the mean of each metric; None: the luck of a seed counts as better.

    Raises:
        GateError: level or margin make no sense.
    """

    def __init__(
        self,
        metrics: Sequence[str] = ("NDCG@10",),
        tasks: Sequence[str] | None = None,
        level: float = 0.05,
        relative: float = 0.0,
        absolute: float = 0.0,
        seed_sd: Mapping[str, float] | None = None,
    ) -> None:
        check_level(level)
        self.metrics, self.tasks, self.level = list(metrics), tasks, level
        self.margin, self.seed_sd = Margin(relative, absolute), seed_sd

    def check(self, case: PromotionCase) -> Verdict:
        found = tested(samples(case, self.metrics, self.tasks), self.margin, "better", self.level, self.seed_sd)
        better = [test for test in found if test.p <= self.level]
        luck = "users" if self.seed_sd is None else "users and seeds"
        limit = f"one of {len(found)} better by more than {self.margin}, level {self.level:g} over {luck}, Holm"
        sentence = "; ".join(map(str, better)) or "none is better: " + "; ".join(map(str, found))
        return Verdict("Superiority", bool(better), all_numbers(found), limit, sentence)
