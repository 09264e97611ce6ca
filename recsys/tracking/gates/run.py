"""Puts a challenger before gates: every gate gives a verdict, and what goes wrong in one is a refusal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from recsys.tracking.gates.case import PromotionCase
from recsys.tracking.gates.gate import Gate, Outcome, Verdict


def run_gates(gates: Mapping[str, Gate], case: PromotionCase) -> list[Verdict]:
    """The verdicts of all gates, in their order.

    A gate that raises, that tries to end the process, that gives no verdict, or that passes with a number that is not
    finite is a refusal with the word `error`. Ctrl-C goes through: who interrupts wants no verdict. After a decisive
    gate has refused the others are not run.

    Args:
        gates: by name; the verdicts bear these names.
        case: what they look at.
    """
    verdicts: list[Verdict] = []
    stopped_by: str | None = None
    for name, gate in gates.items():
        if stopped_by is not None:
            verdicts.append(Verdict(name, False, sentence=f"not asked, since {stopped_by} refused", ran=False))
            continue
        verdict = _verdict(name, gate, case)
        verdicts.append(verdict)
        if gate.decisive and not verdict.passed:
            stopped_by = name
    return verdicts


def outcome_of(verdicts: Iterable[Verdict]) -> Outcome:
    """All verdicts in a word: `passed` where each passed, `error` where one could not find out, else `refused`.

    No verdict at all is a refusal.
    """
    all_of = list(verdicts)
    if any(verdict.failed for verdict in all_of):
        return "error"
    return "passed" if all_of and all(verdict.passed for verdict in all_of) else "refused"


def _verdict(name: str, gate: Gate, case: PromotionCase) -> Verdict:
    try:
        verdict = gate.check(case)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"{type(gate).__name__}.check gave {type(verdict).__name__} instead of a Verdict")
        if not isinstance(verdict.passed, bool | np.bool_):
            raise TypeError(f"`passed` is {verdict.passed!r} instead of True or False")
        strange = [number for number, value in verdict.numbers.items() if not math.isfinite(value)]
        if verdict.passed and strange:
            raise ArithmeticError(f"{', '.join(strange)} is not finite")
    except (Exception, SystemExit) as error:  # whatever a gate throws must refuse, and must not end the command well
        return Verdict(name, False, sentence=f"{type(error).__name__}: {error}", failed=True)
    passed = bool(verdict.passed) and not verdict.failed
    return Verdict(name, passed, verdict.numbers, verdict.limit, verdict.sentence, verdict.ran, verdict.failed)
