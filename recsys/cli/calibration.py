"""Whether the ranking of a trained network gives probabilities, before and after they are mended."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from recsys.evaluation.calibration import (
    Platt,
    WeightedLogits,
    expected_calibration_error,
    fit_platt,
    reliability_table,
    sampled_logits,
)
from recsys.evaluation.tasks import tasks_of
from recsys.features.splits import Split
from recsys.models.trainable import TrainableNetwork

REQUESTS = 2000
"""Users of validation and test whose candidates are looked at; more would say the same at greater cost."""


@dataclass(frozen=True)
class Calibration:
    """The calibration of one network.

    Attributes:
        platt: fitted on validation users.
        error: expected calibration error on test users, `before` and `after`, and the `base_rate` of both.
        tables: of reliability on test users, `before` and `after`.
    """

    platt: Platt
    error: dict[str, float]
    tables: dict[str, pd.DataFrame]

    def as_json(self) -> dict[str, Any]:
        """Plain values: what was fitted, and what it mends."""
        return {"platt": asdict(self.platt), "expected_calibration_error": self.error}


def calibrate(network: TrainableNetwork, split: Split, max_length: int) -> Calibration | None:
    """Fits probabilities to validation requests and judges them on test requests, all tasks together.

    A catalogue or split that is too small costs a trained model its probabilities alone, and a warning says so.

    Returns:
        None for a network without ranking, for a split without validation users, and where nothing could be fitted.
    """
    if not network.ranks or not len(split.validation):
        return None
    some = replace(
        split, validation=split.validation.sample(REQUESTS), test=split.test.sample(REQUESTS)
    )  # the same users whatever the network
    try:
        platt = fit_platt(_logits(network, some, "validation", max_length))
        judged = _logits(network, some, "test", max_length)
    except ValueError as reason:
        warnings.warn(f"the ranking is not calibrated: {reason}", stacklevel=2)
        return None
    probability = {"before": expit(judged.logit), "after": platt(judged.logit)}
    error = {
        name: expected_calibration_error(values, judged.label, judged.weight) for name, values in probability.items()
    }
    tables = {name: reliability_table(values, judged.label, judged.weight) for name, values in probability.items()}
    return Calibration(platt, error | {"base_rate": judged.base_rate}, tables)


def _logits(network: TrainableNetwork, split: Split, which: Any, max_length: int) -> WeightedLogits:
    """Weighted candidates of every task."""
    parts = [
        sampled_logits(network, split, which=which, task=task, max_length=max_length) for task in tasks_of(split, which)
    ]
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("logit", "label", "weight"))
    return WeightedLogits(*columns)
