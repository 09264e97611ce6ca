"""Versions of SynerGen that lack a part, for the study to show what the part is worth."""

from __future__ import annotations

from torch import Tensor

from recsys.models.context import Context
from recsys.models.synergen import SynerGen
from recsys.models.tokens import Slots


class QueryOnly(SynerGen):
    """Knows the query and nothing of the person: no slot sees an event."""

    def ask(self, context: Context, slots: Slots) -> Tensor:
        return super().ask(context, _blind(slots))

    def rank(self, context: Context, slots: Slots, answers: Tensor, candidates: Tensor) -> Tensor:
        return super().rank(context, _blind(slots), answers, candidates)


def _blind(slots: Slots) -> Slots:
    return slots._replace(cutoff=slots.cutoff * 0)
