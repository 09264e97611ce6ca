"""Losses: one per file, each a function of tensors with a thin module around it."""

from __future__ import annotations

from recsys.losses.base import LossOutput, SampledLoss, SampledScores
from recsys.losses.info_nce import InfoNCE

__all__ = ["InfoNCE", "LossOutput", "SampledLoss", "SampledScores"]
