"""Losses: one per file, each a function of tensors with a thin module around it."""

from __future__ import annotations

from recsys.losses.base import (
    CatalogueLoss,
    LossOutput,
    RetrievalLoss,
    SampledLoss,
    SampledScores,
    SlotLoss,
    SlotScores,
)
from recsys.losses.bce import BCE
from recsys.losses.full_softmax import FullSoftmax
from recsys.losses.gbce import GBCE
from recsys.losses.hybrid import Hybrid
from recsys.losses.info_nce import InfoNCE
from recsys.losses.pairwise import Pairwise
from recsys.losses.pointwise import Pointwise

__all__ = [
    "BCE",
    "GBCE",
    "CatalogueLoss",
    "FullSoftmax",
    "Hybrid",
    "InfoNCE",
    "LossOutput",
    "Pairwise",
    "Pointwise",
    "RetrievalLoss",
    "SampledLoss",
    "SampledScores",
    "SlotLoss",
    "SlotScores",
]
