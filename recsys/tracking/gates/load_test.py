"""The challenger can be loaded where nothing is but the package, and answers."""

from __future__ import annotations

import math

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.fresh_process import answers
from recsys.tracking.gates.gate import Gate, GateError, Verdict


class LoadTest(Gate):
    """Protects from a model that only its training process could use: files that are missing, code that is not there.

    A fresh process loads it with `mlflow.pyfunc.load_model` and answers requests of the evaluation set. Its death, a
    wrong answer or too many requests without any item refuse.

    Args:
        requests: number of requests.
        batch: requests of a call.
        k: items asked for.
        timeout_s: seconds for loading and answering.
        at_least_answered: share of the requests that must get items.

    Raises:
        GateError: a number is not positive.
    """

    decisive = True

    def __init__(
        self,
        requests: int = 200,
        batch: int = 20,
        k: int = 10,
        timeout_s: float = 300.0,
        at_least_answered: float = 1.0,
    ) -> None:
        if min(requests, batch, k, timeout_s) <= 0:
            raise GateError("a load test needs positive numbers of requests, items and seconds")
        self.calls, self.batch, self.k = math.ceil(requests / batch), batch, k
        self.timeout_s, self.at_least_answered = timeout_s, at_least_answered

    def check(self, case: PromotionCase) -> Verdict:
        limit = f"{self.at_least_answered:.0%} of {self.calls * self.batch:,} requests, {self.timeout_s:g} s"
        try:
            found = answers(case, [self.batch], self.calls, self.k, self.timeout_s)
        except GateError as error:
            return Verdict("LoadTest", False, limit=limit, sentence=str(error))
        share = found.answered / found.asked
        numbers = {"load_s": found.load_s, "asked": found.asked, "answered": found.answered}
        sentence = f"loaded in {found.load_s:.1f} s, {found.answered:,} of {found.asked:,} requests got items"
        return Verdict("LoadTest", share >= self.at_least_answered, numbers, limit, sentence)
