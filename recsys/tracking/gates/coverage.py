"""The challenger does not recommend the same few items to everybody."""

from __future__ import annotations

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, GateError, Verdict


class Coverage(Gate):
    """Passes where the lists name enough of the catalogue, in every task.

    Args:
        k: items of each list that are looked at.
        at_least: share of the catalogue.
        of_champion: share of the champion's coverage.

    Raises:
        GateError: a share is negative.
    """

    def __init__(self, k: int = 10, at_least: float = 0.0, of_champion: float = 0.8) -> None:
        if not (0 <= at_least <= 1 and of_champion >= 0):
            raise GateError(f"shares of coverage are not negative: {at_least}, {of_champion}")
        self.k, self.at_least, self.of_champion = k, at_least, of_champion

    def check(self, case: PromotionCase) -> Verdict:
        metric, passed, told = f"Coverage@{self.k}", True, []
        numbers: dict[str, float] = {}
        for pair in case.pairs():
            for evaluation in (pair.champion, pair.challenger):
                if metric not in evaluation.exposure:
                    raise GateError(f"no {metric}; there are {', '.join(evaluation.exposure)}")
            champion, challenger = (e.exposure[metric] for e in (pair.champion, pair.challenger))
            name = pair.named(metric)
            numbers |= {f"{name} champion": champion, f"{name} challenger": challenger}
            passed &= challenger >= self.at_least and challenger >= self.of_champion * champion
            told.append(f"{name} {challenger:.4f} against {champion:.4f}")
        limit = f"at least {self.at_least:g} and {self.of_champion:.0%} of the champion's"
        return Verdict("Coverage", passed and bool(told), numbers, limit, "; ".join(told))
