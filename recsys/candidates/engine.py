"""Who makes the parts of a job: this process, one after the other, or those of a cluster side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from recsys.candidates.records import PartRecord

Work = Callable[[int], PartRecord]
"""Makes a part by its number: writes its files and then its record, and returns that. It can be pickled, may be called
anywhere that sees the folder of the job, and any number of times: each call writes the same bytes."""


class Engine(Protocol):
    """Makes parts. What is written does not depend on which engine does it."""

    def run(self, parts: Sequence[int], work: Work) -> Iterator[PartRecord]:
        """The record of each part, as it is finished, in any order.

        An error of `work`, Ctrl-C among them, ends the run; parts that were finished before stay.

        Args:
            parts: numbers of the parts to make.
            work: makes one.
        """


class InProcess:
    """Makes one part after the other in this process; threads share the work within a part.

    Example:
        >>> list(InProcess().run([3], lambda part: PartRecord(part, users=2, rows=0, files={})))[0].part
        3
    """

    def run(self, parts: Sequence[int], work: Work) -> Iterator[PartRecord]:
        """The record of each part, in the order given."""
        return map(work, parts)
