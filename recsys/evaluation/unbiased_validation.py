"""Validation that does not choose the model which is best at what is popular."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.metrics import Targets
from recsys.evaluation.weighted_metrics import weighted_metrics
from recsys.features.splits import Split
from recsys.models.recommender import Recommender


class UnbiasedValidation(L.Callback):
    """Logs Recall, NDCG and MAP of the validation users, relevant items weighted by inverse propensity and normalised.

    The values are `val/snips_MAP@3` and the like. What users chose to validate with is as biased as what they chose to
    train with: unweighted, it prefers models that recommend what is popular. The propensity of an item is the number of
    its training and validation events, at least 1, to a power.

    Early stopping and checkpointing monitor what this logs, so it must stand before them in the list of callbacks.

    Args:
        k: length of the list that metrics look at.
        power: of the propensity; 0 weighs all items alike. (gamma + 1) / 2 of a power law of exponent gamma is 1.5 of
            gamma = 2.

    Raises:
        ValueError: `k` is not positive, or `power` negative.

    Source:
        Yang et al., "Unbiased Offline Recommender Evaluation for Missing-Not-At-Random Implicit Feedback", RecSys 2018.
    """

    def __init__(self, k: int = 3, power: float = 1.5):
        if k < 1 or not power >= 0:
            raise ValueError(f"k must be positive and power at least 0, not {k} and {power}")
        self.k, self.power = k, power
        self.history: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validates; a split without validation users is left as it is."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not len(data.split.validation):
            return
        found = evaluate(
            cast(Recommender, pl_module.network),
            data.split,
            which="validation",
            ks=(self.k,),
            max_length=data.max_length,
            top=self.k,
        ).targets
        targets = Targets(
            torch.from_numpy(found.row),
            torch.from_numpy(found.item).long(),
            torch.from_numpy(found.rank).long(),
            len(data.split.validation),
        )
        metrics = weighted_metrics(targets, inverse_popularity(data.split, self.power), (self.k,))
        values = {f"snips_{name}": float(value.double().mean()) for name, value in metrics.items()}
        self.history.append({"epoch": trainer.current_epoch} | values)
        for name, value in values.items():
            pl_module.log(f"val/{name}", value, prog_bar=name.startswith("snips_MAP"), sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """The values so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the list."""
        self.history = state_dict["history"]


def inverse_popularity(split: Split, power: float) -> Tensor:
    """`[n_items + 1]` float64, `max(n_i, 1)^-power` of the training and validation events n_i of each item."""
    validated = np.asarray(split.log.item_id)[split.validation.targets()]
    events = split.train_counts() + np.bincount(validated, minlength=split.log.n_items + 1)
    return torch.from_numpy(np.maximum(events, 1).astype(np.float64) ** -power)
