"""Losses: one per file, each a function of tensors with a thin module around it."""

from __future__ import annotations

from recsys.losses.base import CatalogueLoss, LossOutput, RetrievalLoss, SampledLoss, SampledScores
from recsys.losses.bce import BCE
from recsys.losses.full_softmax import FullSoftmax
from recsys.losses.gbce import GBCE
from recsys.losses.info_nce import InfoNCE

__all__ = [
    "BCE",
    "GBCE",
    "CatalogueLoss",
    "FullSoftmax",
    "InfoNCE",
    "LossOutput",
    "RetrievalLoss",
    "SampledLoss",
    "SampledScores",
]
