"""The challenger answers soon enough."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.fresh_process import answers
from recsys.tracking.gates.gate import Gate, GateError, Verdict


class Latency(Gate):
    """Protects from a model that is too slow for where it will serve. Run it on such a machine.

    A fresh process loads the model and times calls of `predict`, one after the other, after one that warms up.

    Args:
        p99_ms: batch size -> milliseconds in which 99 of 100 calls must be answered.
        calls: timed calls of each size, 100 at least.
        k: items asked for.
        timeout_s: seconds for all of it.

    Raises:
        GateError: no limit, a limit or size that is not positive, or too few calls.
    """

    def __init__(self, p99_ms: Mapping[int, float], calls: int = 100, k: int = 10, timeout_s: float = 600.0) -> None:
        if not p99_ms or min(*p99_ms, *p99_ms.values()) <= 0:
            raise GateError(f"limits of latency are positive milliseconds by batch size, not {dict(p99_ms)}")
        if calls < 100:
            raise GateError(f"99 of 100 calls need 100 calls at least, not {calls}")
        self.p99_ms, self.calls, self.k, self.timeout_s = dict(p99_ms), calls, k, timeout_s

    def check(self, case: PromotionCase) -> Verdict:
        found = answers(case, list(self.p99_ms), self.calls, self.k, self.timeout_s)
        numbers = {}
        for size, times in found.seconds.items():
            for share in (50, 99):
                value = float(np.quantile(np.array(times), share / 100, method="inverted_cdf"))
                numbers[f"batch {size} p{share}_ms"] = value * 1000
        passed = all(numbers[f"batch {size} p99_ms"] <= most for size, most in self.p99_ms.items())
        limit = ", ".join(f"batch {size}: {most:g} ms" for size, most in self.p99_ms.items())
        told = (f"batch {size}: {numbers[f'batch {size} p99_ms']:.1f} ms" for size in self.p99_ms)
        return Verdict("Latency", passed, numbers, f"p99 {limit}", f"p99 {', '.join(told)}")
