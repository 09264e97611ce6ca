"""What a gate is: a question to a challenger that must be answered well before it becomes the champion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recsys.tracking.gates.case import PromotionCase

Outcome = Literal["passed", "refused", "error", "not run"]


class GateError(ValueError):
    """A gate that cannot be set up, or a model that cannot be put before it; the message says what to change."""


@dataclass(frozen=True)
class Verdict:
    """What a gate has found.

    Attributes:
        name: of the gate.
        passed: whether the gate is no reason to refuse. True also where a gate does not apply, see `ran`.
        numbers: what was measured, by name.
        limit: what was demanded, in words.
        sentence: the finding, for people.
        ran: False where the gate does not apply; the sentence says why.
        failed: the gate could not find out. Such a verdict never passes.
    """

    name: str
    passed: bool
    numbers: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    sentence: str = ""
    ran: bool = True
    failed: bool = False

    @property
    def outcome(self) -> Outcome:
        """The verdict in a word."""
        if self.failed:
            return "error"
        if not self.ran:
            return "not run"
        return "passed" if self.passed else "refused"

    def as_json(self) -> dict[str, Any]:
        """Plain values; null where a number is not finite."""
        numbers = {name: float(value) if math.isfinite(value) else None for name, value in self.numbers.items()}
        content = {"name": self.name, "outcome": self.outcome, "passed": self.passed, "limit": self.limit}
        return content | {"sentence": self.sentence, "numbers": numbers}


class Gate(ABC):
    """A gate. A class of yours is named by its `class_path` in a file of gates, and needs no registration.

    Attributes:
        decisive: whether nothing more is asked once this gate refuses, because the answers would mean nothing.

    Example:
        >>> class Always(Gate):
        ...     def check(self, case):
        ...         return Verdict("always", passed=True, sentence="whatever it is")
    """

    decisive: bool = False

    @abstractmethod
    def check(self, case: PromotionCase) -> Verdict:
        """Judges the challenger of a case.

        Whatever this raises is a refusal.

        Args:
            case: challenger and champion.
        """
